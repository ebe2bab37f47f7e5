"""Finding a ticket by name, measured budgets, forecasts, and what the whole way costs."""

__all__: list[str] = []
