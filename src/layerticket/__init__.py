"""Winning tickets made of whole layers, found before training starts."""

from layerticket.batch import CrossEntropy, model_loss
from layerticket.blocks import Block, Blocks, find_blocks
from layerticket.criteria import criterion, criterion_names
from layerticket.errors import LayerticketError
from layerticket.scoring import BlockScores, score
from layerticket.selection import Budget, Selection, select
from layerticket.surgery import remove_blocks, zero_blocks
from layerticket.ticket import Ticket, find_ticket

__all__ = [
    "Block",
    "BlockScores",
    "Blocks",
    "Budget",
    "CrossEntropy",
    "LayerticketError",
    "Selection",
    "Ticket",
    "criterion",
    "criterion_names",
    "find_blocks",
    "find_ticket",
    "model_loss",
    "remove_blocks",
    "score",
    "select",
    "zero_blocks",
]
