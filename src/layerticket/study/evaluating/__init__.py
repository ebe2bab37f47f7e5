"""Evaluating finished runs under named conditions."""

__all__: list[str] = []
