"""Winning tickets made of whole layers, found before training starts."""

from layerticket.batch import CrossEntropy, model_loss
from layerticket.blocks.block import Block, Blocks
from layerticket.blocks.find import find_blocks
from layerticket.criteria.registry import criterion, criterion_names
from layerticket.errors import LayerticketError
from layerticket.scoring import BlockScores, score
from layerticket.selection import Budget, Selection, select
from layerticket.surgery.remove import remove_blocks, zero_blocks
from layerticket.ticket.find import find_ticket
from layerticket.ticket.ticket import Ticket

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
