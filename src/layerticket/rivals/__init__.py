"""What a ticket of layers must beat: fewer filters, fewer weights, blocks without a criterion."""

from layerticket.rivals.candidates import Candidate, load_candidate
from layerticket.rivals.controls import (
    CONTROLS,
    control_match,
    control_ticket,
    equal_compute_epochs,
)
from layerticket.rivals.families import shallower
from layerticket.rivals.filters import FilterTicket, find_filter_ticket
from layerticket.rivals.saliency import Saliency
from layerticket.rivals.weights import (
    WeightTicket,
    find_weight_ticket,
    kept_shares,
    next_weight_ticket,
    permanent,
    plain_state,
)

__all__ = [
    "CONTROLS",
    "Candidate",
    "FilterTicket",
    "Saliency",
    "WeightTicket",
    "control_match",
    "control_ticket",
    "equal_compute_epochs",
    "find_filter_ticket",
    "find_weight_ticket",
    "kept_shares",
    "load_candidate",
    "next_weight_ticket",
    "permanent",
    "plain_state",
    "shallower",
]
