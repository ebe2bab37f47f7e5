"""Builds the smaller network; one that came from Hugging Face leaves as one.

Knows nothing of scores. What is known of Hugging Face's conventions lies in `hugging_face`
and `configuration` here, in `blocks.numbering`, and nowhere else in the package.
"""

from layerticket.blocks.numbering import name_after_removal
from layerticket.surgery.removal import remove_blocks, zero_blocks

__all__ = ["name_after_removal", "remove_blocks", "zero_blocks"]
