"""Unstructured pruning at initialization and in rounds, by masks; masks save no time."""

from layerticket.rivals.weights.finding import find_weight_ticket
from layerticket.rivals.weights.iterative import kept_shares, next_weight_ticket
from layerticket.rivals.weights.masks import permanent, plain_state
from layerticket.rivals.weights.record import WeightTicket

__all__ = [
    "WeightTicket",
    "find_weight_ticket",
    "kept_shares",
    "next_weight_ticket",
    "permanent",
    "plain_state",
]
