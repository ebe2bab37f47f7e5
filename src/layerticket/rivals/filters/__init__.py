"""Filter pruning at initialization, with real removal of channels."""

from layerticket.rivals.filters.finding import find_filter_ticket
from layerticket.rivals.filters.record import FilterTicket

__all__ = ["FilterTicket", "find_filter_ticket"]
