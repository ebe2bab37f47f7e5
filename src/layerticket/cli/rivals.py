"""Options of `layerticket find --rival`: what a ticket of layers is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cyclopts import Parameter

from layerticket.cli.options import DataChoice
from layerticket.data import Dataset
from layerticket.errors import LayerticketError
from layerticket.files import read_json
from layerticket.rivals import CONTROLS
from layerticket.study import find_control, find_filters, find_imp, find_weights
from layerticket.study.runs.record import RUN
from layerticket.training import Recipe

__all__ = ["RivalChoice", "RivalRequest", "find_rival", "refuse_beside_a_rival", "rival_text"]

Kind = Literal["filters", "weights", "random", "first", "last", "even"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class RivalChoice:
    """Find what a ticket is compared with, at its cost, in place of a ticket."""

    rival: Kind | None = None
    """filters: fewer of them (--criterion snip, grasp, l1, random); weights: masks (snip, grasp,
    synflow, magnitude; with --run and --rounds iterative magnitude pruning); random, first, last,
    even: blocks without a criterion."""
    reference: Path | None = None
    """Folder of the ticket that is matched."""
    match: Literal["filters", "macs", "params"] | None = None
    """What --rival filters makes equal, by default their number. Blocks are matched in MACs,
    weights in parameters."""
    draw: int | None = None
    """Number of the draw of random blocks (by default 0) or random filters (by default --seed)."""
    slices: Literal["filters", "all"] | None = None
    """Score a channel by its filters (default of l1), or by all weights that go with it."""

    def __post_init__(self) -> None:
        if (self.rival is None) != (self.reference is None):
            raise LayerticketError(
                "--rival and --reference belong together: a rival is matched to the cost of a "
                "ticket. Give both, or neither."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class RivalRequest:
    """What else was given to `find`."""

    criterion: str
    seed: int | None
    out: Path
    rounds: int | None
    options: Mapping[str, Any]
    """Options of the criterion."""
    images: Mapping[str, Any]
    """Which images are scored on."""
    where: Mapping[str, Any]
    """Device, and how energy is metered."""
    run: Path | None
    rewind: str | None


def find_rival(
    choice: RivalChoice, model: str, dataset: Dataset, request: RivalRequest
) -> dict[str, Any]:
    """Find the rival that was asked for.

    Args:
        choice: What was asked for.
        model: Name of the dense network.
        dataset: Its data.
        request: All the rest.

    Returns:
        What `find --json` prints.

    Raises:
        LayerticketError: If anything given does not fit.
    """
    _refuse_what_it_does_not_read(choice, request)
    assert choice.reference is not None
    how: dict[str, Any] = {"reference": choice.reference, "out": request.out, **request.where}
    if request.run is not None:
        recipe = Recipe(**read_json(request.run / RUN)["config"]["recipe"])
        how |= {"rounds": request.rounds, "rewind": request.rewind or 0}
        how |= {} if request.seed is None else {"seed": request.seed}
        return find_imp(request.run, dataset, recipe, **how)
    how["seed"] = request.seed
    chosen = {"draw": choice.draw, "slices": choice.slices, "match": choice.match}
    how |= {name: value for name, value in chosen.items() if value is not None}
    if choice.rival in CONTROLS:
        return find_control(model, dataset, control=choice.rival, **how)
    how |= {"criterion": request.criterion, **request.images, **request.options}
    if choice.rival == "filters":
        return find_filters(model, dataset, **how)
    return find_weights(model, dataset, rounds=request.rounds, **how)


def refuse_beside_a_rival(**given: object) -> None:
    """Refuse what says how much is to go: the reference does.

    Raises:
        LayerticketError: If a group of options is not as it is by default.
    """
    for name, value in given.items():
        if value != type(value)():
            raise LayerticketError(
                f"options about the {name} of a ticket make no sense with --rival, which is "
                "matched to the ticket in --reference. Leave them out."
            )


def _refuse_what_it_does_not_read(choice: RivalChoice, request: RivalRequest) -> None:
    """Refuse options that this kind of rival would ignore."""
    kind = "imp" if request.run is not None else choice.rival or ""
    read: dict[str, set[str]] = {
        "filters": {"--criterion", "--match", "--draw", "--slices", "scoring", "--images"},
        "weights": {"--criterion", "--rounds", "scoring", "--images"},
        "imp": {"--rounds"},
        "random": {"--draw"},
    }
    given = {
        "--criterion": request.criterion != "grasp",
        "--match": choice.match is not None,
        "--draw": choice.draw is not None,
        "--slices": choice.slices is not None,
        "--rounds": request.rounds is not None,
        "--images": dict(request.images) != {"images": None, "balanced": True},
        "scoring": bool(request.options),
    }
    odd = [name for name, is_given in given.items() if is_given and name not in read.get(kind, ())]
    if request.run is not None and choice.rival != "weights":
        raise LayerticketError(
            f"--run with --rival {choice.rival} makes no sense: only weights are pruned in a "
            "training. Give MODEL in place of --run."
        )
    if odd:
        what = "options of a criterion" if odd[0] == "scoring" else odd[0]
        raise LayerticketError(f"--rival {choice.rival} does not read {what} here. Leave it out.")


def rival_text(model: str, record: Mapping[str, Any], choice: RivalChoice, data: DataChoice) -> str:
    """Tell what was found, how close it came, and how to go on."""
    folder = "" if data.data_dir is None else f" --data-dir {data.data_dir}"
    match, macs, params = record["match"], record["macs"], record["params"]
    by = match["by"]
    figures = match[by]
    gone = record["removed"]
    what = (
        f"{len(gone)} blocks removed ({', '.join(gone)})"
        if record["kind"] == "control"
        else f"{record['criterion']}, {_sum(gone):,} {record['kind']} removed"
    )
    lines = [
        f"{choice.rival} rival of {choice.reference} in {model}: {what}.",
        f"Matched in {by}: {figures['rival']:,} to the ticket's {figures['reference']:,} of "
        f"{figures['dense']:,} ({match['relative_difference']:+.3%}).",
        f"MACs {macs['dense'] / 1e6:.2f} M -> {macs['ticket'] / 1e6:.2f} M, parameters "
        f"{params['dense']:,} -> {params['ticket']:,}.",
    ]
    if record["kind"] == "weights":
        sparse = record["sparse_macs"]
        count = "" if sparse is None else f" (without the zeros {sparse / 1e6:.2f} M would do)"
        lines.append(f"Masks save no time on ordinary hardware{count}.")
    lines.append(
        f"Saved in {record['ticket']}. Train it: layerticket train {model} "
        f"--ticket {record['ticket']} --data {data.data}{folder}"
    )
    return "\n".join(lines)


def _sum(gone: Mapping[str, Any]) -> int:
    """Count what is gone: numbers for weights, lists for filters."""
    return sum(len(some) if isinstance(some, list) else some for some in gone.values())
