"""The failure of a training that was under way; refusals of bad input are `LayerticketError`."""

__all__ = ["TrainingError"]


class TrainingError(RuntimeError):
    """Training failed while running; the command line exits with 1."""
