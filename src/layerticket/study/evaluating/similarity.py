"""How close a finished run stayed to the dense one in what it represents."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from layerticket.batch import Inputs, head
from layerticket.blocks import find_blocks
from layerticket.data import Dataset, batches
from layerticket.errors import LayerticketError
from layerticket.evaluation.similarity import STEM, similarity
from layerticket.files import read_json
from layerticket.rivals import load_candidate
from layerticket.study.evaluating.conditions import first_images
from layerticket.study.evaluating.evaluate import trained_network
from layerticket.study.runs.record import RUN
from layerticket.study.runs.train import TICKET
from layerticket.surgery import name_after_removal
from layerticket.ticket import Ticket

__all__ = ["counterparts", "similarity_of", "stage_ends"]

IMAGES = 512


def similarity_of(
    run: Path, dense_run: Path, dataset: Dataset, *, images: int = IMAGES
) -> dict[str, Any]:
    """Compare the network of a run with that of a dense run, layer by layer, on test images.

    Every layer is compared with itself, under whatever name it has in the smaller network; a block
    that was removed has no figure. Of a network of another name, such as a shallower one, the last
    blocks of the stages are compared, if it has as many stages.

    Args:
        run: A finished run: a ticket, a rival, a shallower network, or dense.
        dense_run: A finished run of the dense network.
        dataset: The data of both.
        images: The first so many test images are compared on, at least 3.

    Returns:
        `layers` (CKA by name in the dense network, None where the other has no such layer), `mean`
        over the layers both have, `mean_over` (their names), `images`, `measure`.

    Raises:
        LayerticketError: If a run is not finished or damaged, or there are too few images.
    """
    if images < 3:
        raise LayerticketError(f"images is {images}; CKA needs at least 3, better 500.")
    split = first_images(dataset.test, images)
    inputs, _ = next(iter(batches(dataset, split, len(split), seed=0, epoch=0, train=False)))
    dense, other = trained_network(dense_run, dataset), trained_network(run, dataset)
    example = head(inputs, 1)
    names = _blocks(dense, example)
    if _config(run)["model"] == _config(dense_run)["model"]:
        same = counterparts(dense, names, _removed(run))
    else:
        same = stage_ends(names, _blocks(other, example))
    layers = similarity(dense, other, names, inputs, counterparts=same)
    values = {name: value for name, value in layers.items() if value is not None}
    return {
        "layers": layers,
        "mean": sum(values.values()) / len(values),
        "mean_over": list(values),
        "images": len(split),
        "measure": "linear CKA, full, centered",
    }


def counterparts(dense: nn.Module, names: Sequence[str], removed: Iterable[str]) -> dict[str, str]:
    """Tell what the layers of a network are called in the one without some of its blocks.

    Args:
        dense: The dense network.
        names: Layers of it.
        removed: Blocks that are gone.

    Returns:
        Name in the dense network -> name in the smaller one, without the removed; at `stem`, what
        stands at the place of the first layer.
    """
    gone = set(removed)
    renamed = name_after_removal(dense, gone)
    first = {STEM: renamed(names[0])} if names else {}
    return first | {name: renamed(name) for name in names if name not in gone}


def stage_ends(names: Sequence[str], others: Sequence[str]) -> dict[str, str]:
    """Match the last block of every stage of two networks, in order of depth.

    A stage is the blocks that one list of the network holds: all before the last dot of their
    names is the same.

    Args:
        names: Blocks of the one network.
        others: Blocks of the other.

    Returns:
        Name in the one -> name in the other, and at `stem` the first block of the other; nothing
        more if the numbers of stages differ.
    """
    first = {STEM: others[0]} if others else {}
    ends = [{name.rpartition(".")[0]: name for name in blocks} for blocks in (names, others)]
    if len(ends[0]) != len(ends[1]):
        return first
    return first | dict(zip(ends[0].values(), ends[1].values(), strict=True))


def _config(run: Path) -> dict[str, Any]:
    config: dict[str, Any] = read_json(run / RUN)["config"]
    return config


def _removed(run: Path) -> tuple[str, ...]:
    """List the blocks a run did without; none of dense networks, thinner and masked ones."""
    found = load_candidate(run / TICKET) if _config(run)["ticket"] else None
    return found.removed if isinstance(found, Ticket) else ()


def _blocks(dense: nn.Module, example: Inputs) -> list[str]:
    """List the blocks of a network: the removable ones, and those of their kind that must stay."""
    kinds = {type(dense.get_submodule(block.name)) for block in find_blocks(dense, example)}
    return [name for name, module in dense.named_modules() if type(module) in kinds]
