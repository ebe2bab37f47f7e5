"""What paired seeds prove, and what they do not. Knows numbers only."""

__all__: list[str] = []
