"""What a study has come to: its standing, ``study.json`` and one flat table."""

__all__: list[str] = []
