"""From a study to jobs that share work, in an order they can be done in."""

__all__: list[str] = []
