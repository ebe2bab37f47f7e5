"""Study files: from TOML to one frozen value and back, and the studies that come with us."""

__all__: list[str] = []
