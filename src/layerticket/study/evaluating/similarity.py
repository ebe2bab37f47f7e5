"""How close a finished run stayed to the dense one in what it represents."""

from pathlib import Path
from typing import Any

from torch import nn

from layerticket.batch import Inputs, head
from layerticket.blocks import find_blocks
from layerticket.data import Dataset, batches
from layerticket.errors import LayerticketError
from layerticket.evaluation.similarity import similarity
from layerticket.study.evaluating.conditions import first_images
from layerticket.study.evaluating.evaluate import trained_network

__all__ = ["similarity_of"]

IMAGES = 512


def similarity_of(
    run: Path, dense_run: Path, dataset: Dataset, *, images: int = IMAGES
) -> dict[str, Any]:
    """Compare the network of a run with that of a dense run, layer by layer, on test images.

    Args:
        run: A finished run: a ticket, a rival, a shallower network, or dense.
        dense_run: A finished run of the dense network.
        dataset: The data of both.
        images: The first so many test images are compared on, at least 3.

    Returns:
        `layers` (CKA by name, None where the network of the run has no such layer), `mean` over the
        layers both have, `images`, `measure`.

    Raises:
        LayerticketError: If a run is not finished or damaged, or there are too few images.
    """
    if images < 3:
        raise LayerticketError(f"images is {images}; CKA needs at least 3, better 500.")
    split = first_images(dataset.test, images)
    inputs, _ = next(iter(batches(dataset, split, len(split), seed=0, epoch=0, train=False)))
    dense, other = trained_network(dense_run, dataset), trained_network(run, dataset)
    layers = similarity(dense, other, _blocks(dense, head(inputs, 1)), inputs)
    values = [value for value in layers.values() if value is not None]
    return {
        "layers": layers,
        "mean": sum(values) / len(values),
        "images": len(split),
        "measure": "linear CKA, full, centered",
    }


def _blocks(dense: nn.Module, example: Inputs) -> list[str]:
    """List the blocks of a network: the removable ones, and those of their kind that must stay."""
    kinds = {type(dense.get_submodule(block.name)) for block in find_blocks(dense, example)}
    return [name for name, module in dense.named_modules() if type(module) in kinds]
