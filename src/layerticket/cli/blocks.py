"""`layerticket blocks`: which blocks of a network can be removed, and why others cannot."""

from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter

from layerticket.blocks.block import Granularity, block_record
from layerticket.cli.options import InputOptions, Json, input_line, shape_named
from layerticket.cli.output import emit
from layerticket.criteria.registry import criterion_names
from layerticket.errors import LayerticketError
from layerticket.models.names import check_model_name
from layerticket.settings import Few

SPREAD = "Test whether scores at initialization differ by more than noise; needs --data:"
WORDS = {"block": "blocks", "branch": "branches and blocks"}


def blocks(
    model: str,
    /,
    *,
    data: InputOptions = InputOptions(),
    granularity: Granularity = "block",
    spread: Annotated[str | None, Parameter(help=f"{SPREAD} {', '.join(criterion_names())}.")] = (
        None
    ),
    repeats: Few = 3,
    json: Json = False,
) -> None:
    """List the residual blocks of a network that can be removed.

    Parameters
    ----------
    model
        resnet14, 20, 32, 44, 56, 110, 1202 (also with -projection), timm:NAME,
        torchvision:NAME, hf:CONFIG-OR-FOLDER, or package.module:function.
    granularity
        block: remove whole blocks; branch: attention and multilayer perceptron separately.
    repeats
        For --spread: number of initializations, and of batches of --data for each.
    """
    check_model_name(model)
    import torch

    from layerticket.blocks.find import find_blocks
    from layerticket.models.load import build_model
    from layerticket.report.tables import blocks_table, table_text

    shape, classes, where = data.shape_and_classes(model)
    network = build_model(model, classes=classes, channels=shape[0], seed=0)
    with shape_named(shape, where):
        found = find_blocks(network, torch.zeros(1, *shape), granularity=granularity)
    record: dict[str, Any] = {
        "model": model,
        "params": found.params,
        "macs": found.macs,
        "input": {"shape": list(shape), "from": where},
        "blocks": [block_record(block) for block in found],
        "rejected": [asdict(rejection) for rejection in found.rejected],
    }
    counted = "MACs not counted" if found.macs is None else f"{found.macs / 1e6:.2f} M MACs"
    lines = [
        f"{model}: {found.params:,} parameters, {counted}; {len(found)} "
        f"removable {WORDS[granularity]}. {input_line(shape, where)}",
        "",
    ]
    if len(found):
        lines += [table_text(blocks_table(record)).rstrip(), ""]
    lines += [f"stays: {r.name} {r.reason}" for r in found.rejected]
    lines += [found.uncounted] if found.uncounted else []
    if spread is not None:
        record["spread"] = stability = _spread(model, data, spread, repeats, granularity)
        lines += ["", f"{spread}: {stability['sentence']}"]
    emit(record, "\n".join(lines), as_json=json)


def _spread(
    model: str, data: InputOptions, criterion: str, repeats: int, granularity: Granularity
) -> dict[str, Any]:
    """Score the blocks over initializations and batches of a data set."""
    from layerticket.lottery import draw_batch
    from layerticket.study.stability import ranking_stability
    from layerticket.study.train import Networks

    if data.data is None:
        raise LayerticketError("--spread scores on images: name them with --data, e.g. digits.")
    dataset = data.load()
    return ranking_stability(
        lambda seed: Networks.of(dataset).build(model, seed),
        lambda number: draw_batch(dataset, None, seed=number),
        criterion=criterion,
        seeds=repeats,
        batches=repeats,
        granularity=granularity,
    )
