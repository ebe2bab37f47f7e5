"""Charts as plain values, and what draws them: in a browser, and as PNG and SVG."""

__all__: list[str] = []
