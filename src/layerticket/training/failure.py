"""The failure of a training that was under way; refusals of bad input are `LayerticketError`."""

__all__ = ["ECHO", "TrainingError"]

ECHO = "told by process 0, which failed"
"""Note on an exception that repeats on one process what went wrong on another."""


class TrainingError(RuntimeError):
    """Training failed while running; the command line exits with 1."""
