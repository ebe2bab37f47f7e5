"""From scores and a budget to what goes and what stays."""

from layerticket.selection.budget import Budget, Costs
from layerticket.selection.choosing import Selection, downsampling_neighbours, select

__all__ = ["Budget", "Costs", "Selection", "downsampling_neighbours", "select"]
