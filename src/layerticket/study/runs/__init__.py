"""One run: its frozen configuration, its folder, its training and its bill."""

__all__: list[str] = []
