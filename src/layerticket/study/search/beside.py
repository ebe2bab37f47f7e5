"""Rivals start from the theta_0 of their reference: by its seed, with the same weights."""

from torch import nn

from layerticket.data import Dataset
from layerticket.errors import LayerticketError
from layerticket.study.runs.train import build_named
from layerticket.ticket import Ticket, architecture_digest, weights_digest

__all__ = ["dense_beside", "seed_beside"]


def seed_beside(reference: Ticket, seed: int | None) -> int:
    """Take the seed that is given, or else that of the reference.

    Raises:
        LayerticketError: If neither is known.
    """
    chosen = reference.seed if seed is None else seed
    if chosen is None:
        raise LayerticketError(
            f"the reference, a ticket of {reference.model!r}, does not say by which seed its "
            "weights were drawn. Give the seed."
        )
    return chosen


def dense_beside(reference: Ticket, model: str, dataset: Dataset, seed: int) -> nn.Module:
    """Build the dense network, and refuse another theta_0 than the reference was found at.

    A reference that was found in a training was scored in weights of that training, which say
    nothing about theta_0. That another architecture is refused is left to the search.

    Args:
        reference: Ticket of layers.
        model: What the network is built by.
        dataset: Gives classes and channels.
        seed: Decides theta_0.

    Raises:
        LayerticketError: If the weights differ.
    """
    dense = build_named(model, dataset, seed)
    comparable = reference.origin is None and architecture_digest(dense) == reference.architecture
    if comparable and weights_digest(dense) != reference.weights:
        raise LayerticketError(
            f"{model!r} at seed {seed} has other weights than the reference was found in (seed "
            f"{reference.seed}), and a rival starts from the same theta_0. Leave the seed out, or "
            "give a ticket found in this network with this version of torch."
        )
    return dense
