"""The published tables, each from its runs."""

__all__: list[str] = []
