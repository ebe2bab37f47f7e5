"""The report of a study: words, tables, and one page that needs nothing but itself."""

__all__: list[str] = []
