"""The record of a ticket: find, save, load, apply."""

from layerticket.ticket.finding import find_ticket
from layerticket.ticket.record import Origin, Ticket, architecture_digest, weights_digest

__all__ = ["Origin", "Ticket", "architecture_digest", "find_ticket", "weights_digest"]
