"""What networks of a study are compared with the dense one: one frozen dataclass a kind."""

__all__: list[str] = []
