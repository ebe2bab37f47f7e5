"""`layerticket find`: a ticket at initialization."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from layerticket.cli.options import DataChoice, Json
from layerticket.cli.output import say
from layerticket.criteria import criterion_names
from layerticket.selection import Budget
from layerticket.study import find_in

__all__ = ["Goal", "Rules", "Scoring", "find"]

CRITERIA = ", ".join(criterion_names())


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """How much is to go: one of the three."""

    remove: int | None = None
    """Number of blocks to remove."""
    save_macs: float | None = None
    """Share of the multiply-accumulates to save at least, 0 to 1."""
    save_params: float | None = None
    """Share of the parameters to save at least, 0 to 1."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """How blocks are scored; what is not given is as in the criterion's paper."""

    reduction: Literal["sum", "mean"] | None = None
    """Block score: sum (default) or mean over the block's weights."""
    normalization: Literal["batch", "running"] | None = None
    """Batch norm by the statistics of the batch (default) or the running averages."""
    temperature: float | None = None
    """Divides the logits in the loss; by default 200 for grasp, 1 for snip."""
    micro_batches: int | None = None
    """Parts the scoring batch is processed in, to bound memory."""
    hessian: Literal["auto", "shortcut", "exact"] | None = None
    """GraSP through the shortcut where it holds (auto, default), or as said."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """Which blocks must stay."""

    protect: tuple[str, ...] = ()
    """Patterns of blocks that must stay, e.g. "layer1.*"."""
    min_per_stage: int = 0
    """Removable blocks that must remain in every stage."""
    keep_neighbours: Annotated[bool, Parameter(negative=())] = False
    """Keep the blocks next to each down-sampling, as the paper's implementation does."""


def find(
    model: str,
    /,
    *,
    out: Path,
    goal: Goal = Goal(),
    criterion: Annotated[str, Parameter(help=f"One of {CRITERIA}.")] = "grasp",
    seed: int = 0,
    images: int | None = None,
    balanced: bool = True,
    scoring: Scoring = Scoring(),
    rules: Rules = Rules(),
    choice: DataChoice = DataChoice(),  # noqa: B008
    json: Json = False,
) -> None:
    """Find a winning-ticket candidate: score the blocks at initialization, cut the lowest.

    Parameters
    ----------
    model
        resnet20 to resnet1202 (also with -projection), timm:NAME, torchvision:NAME,
        or package.module:function.
    out
        Folder the ticket is written to.
    seed
        Draws theta_0, the scoring images, and the scores of criterion random.
    images
        Images to score on; by default ten of every class.
    balanced
        Draw equally many images of every class.
    """
    record = find_in(
        model,
        choice.load(),
        budget=Budget(**asdict(goal)),
        seed=seed,
        out=out,
        criterion=criterion,
        images=images,
        balanced=balanced,
        rules=asdict(rules),
        options={name: value for name, value in asdict(scoring).items() if value is not None},
    )
    say(record, _text(model, record, choice.data), as_json=json)


def _text(model: str, record: dict[str, Any], data: str) -> str:
    """Tell what was found, and how to go on."""
    macs, params = record["macs"], record["params"]
    return (
        f"{record['criterion']} ticket of {model}: {len(record['removed'])} blocks removed "
        f"({', '.join(record['removed'])}), {len(record['kept'])} removable blocks kept.\n"
        f"MACs {macs['dense'] / 1e6:.2f} M -> {macs['ticket'] / 1e6:.2f} M "
        f"({1 - macs['ticket'] / macs['dense']:.1%} saved), parameters {params['dense']:,} -> "
        f"{params['ticket']:,}; scored in {record['score_seconds']:.2f} s.\nSaved in "
        f"{record['ticket']}. Train it: layerticket train {model} --ticket {record['ticket']} "
        f"--data {data}"
    )
