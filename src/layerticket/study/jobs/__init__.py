"""Doing one job of a study, wherever: lock, log, work, record."""

__all__: list[str] = []
