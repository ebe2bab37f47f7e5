"""The lottery with layers: the paper's Algorithm 1 and Algorithm 2, and rewinding."""

from layerticket.lottery.algorithms import Draw, draw_after_training, draw_at_initialization
from layerticket.lottery.rewinding import draw_batch, find_in_training, rewind, start_of

__all__ = [
    "Draw",
    "draw_after_training",
    "draw_at_initialization",
    "draw_batch",
    "find_in_training",
    "rewind",
    "start_of",
]
