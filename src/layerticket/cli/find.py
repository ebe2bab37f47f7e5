"""Options of `layerticket find --rival`: what a ticket of layers is compared with."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from layerticket.baselines.controls import CONTROLS
from layerticket.blocks.block import Granularity
from layerticket.cli.options import DataChoice, DeviceChoice, Json, bytes_of
from layerticket.cli.output import energy_text, forecast_text, say
from layerticket.criteria.registry import criterion_names
from layerticket.data.dataset import Dataset
from layerticket.errors import LayerticketError
from layerticket.evaluation.energy import Metering
from layerticket.files import read_json
from layerticket.selection import Budget
from layerticket.study.methods import (
    ControlMethod,
    FiltersMethod,
    ImpMethod,
    LotteryMethod,
    Method,
    TicketMethod,
    WeightsMethod,
)
from layerticket.study.methods import Rules as MethodRules
from layerticket.study.record import RUN, run_folder
from layerticket.study.search import Search
from layerticket.study.search import find as search
from layerticket.study.train import Networks
from layerticket.training.recipe import Recipe


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """How much is to go: one of these."""

    remove: int | None = None
    """Number of blocks to remove."""
    save_macs: float | None = None
    """Share of the multiply-accumulates to save at least, 0 to 1."""
    save_params: float | None = None
    """Share of the parameters to save at least, 0 to 1."""
    save_time: float | None = None
    """Share of the measured time of a training step to save at least, 0 to 1."""
    save_energy: float | None = None
    """Share of the metered energy of a training step to save at least, 0 to 1."""
    max_memory: str | None = None
    """Most memory training may take at its measured peak: bytes, or as in 2GiB."""

    def budget(self) -> Budget:
        """Hand over what was given."""
        return Budget(**asdict(self) | {"max_memory": bytes_of(self.max_memory)})


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Measuring:
    """What is measured on, for a measured budget and for a forecast."""

    batch_size: int = 128
    """Images a training step."""
    forecast_epochs: int | None = None
    """Forecast time, energy and carbon of this many epochs of training."""
    timing_rounds: int = 7
    """Rounds of steps that are timed, dense network and ticket in turns."""


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


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Find the ticket in a trained network and set it back (Algorithm 1)."""

    run: Path | None = None
    """Run that trained the network, with --keep; gives model, data and theta_0."""
    rewind: str | None = None
    """Epoch i the kept weights are set back to, or a share such as 25%; by default 0."""
    score_epoch: str | None = None
    """Epoch whose weights are scored, for early tickets; by default the last."""


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
    at = Search(
        networks=Networks.of(dataset),
        model=model,
        dataset=dataset,
        seed=request.seed,
        out=request.out,
        draw=choice.draw,
        dense=request.run,
        reference=choice.reference,
        **request.where,
    )
    if request.run is not None:
        return search(ImpMethod(rounds=request.rounds, rewind=request.rewind or "0"), at)
    if choice.rival in CONTROLS:
        return search(ControlMethod(control=choice.rival), at)
    slices = {} if choice.slices is None else {"slices": choice.slices}
    how: dict[str, Any] = {
        "criterion": request.criterion,
        "options": {**slices, **request.options},
        **request.images,
    }
    if choice.rival == "filters":
        return search(FiltersMethod(match=choice.match or "filters", **how), at)
    return search(WeightsMethod(rounds=request.rounds, **how), at)


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
        f"Matched in {by}: {figures['baseline']:,} to the ticket's {figures['reference']:,} of "
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


CRITERIA = ", ".join(criterion_names())


def find(
    model: str | None = None,
    /,
    *,
    out: Path,
    goal: Goal = Goal(),
    criterion: Annotated[str, Parameter(help=f"One of {CRITERIA}.")] = "grasp",
    granularity: Granularity = "block",
    seed: int | None = None,
    rounds: int | None = None,
    images: int | None = None,
    balanced: bool = True,
    scoring: Scoring = Scoring(),
    rules: Rules = Rules(),
    training: Training = Training(),
    rival: RivalChoice = RivalChoice(),
    choice: DataChoice = DataChoice(),  # noqa: B008
    measuring: Measuring = Measuring(),
    energy: Metering = Metering(),  # noqa: B008
    where: DeviceChoice = DeviceChoice(),  # noqa: B008
    json: Json = False,
) -> None:
    """Find a winning-ticket candidate: score the blocks, cut the lowest.

    At initialization, or with --run in a trained network, then set back to an epoch of training.
    With --rival, what such a ticket has to beat, at the cost of the ticket given as --reference.

    Parameters
    ----------
    model
        resnet20 to resnet1202 (also with -projection), timm:NAME, torchvision:NAME,
        hf:CONFIG-OR-FOLDER, or package.module:function. With --run it is taken from there.
    out
        Folder the ticket is written to.
    granularity
        block: a block goes as a whole; branch: attention and multilayer perceptron by themselves.
    seed
        Draws theta_0, the scoring images, and the scores of criterion random; by default 0, that of
        --run, which has its theta_0 already, or that of --reference.
    rounds
        Remove in so many rounds, scoring the smaller network anew in each; by default 1, for
        synflow on weights 100, for weights of a --run as many as it takes at a fifth each.
    images
        Images to score on; by default ten of every class.
    balanced
        Draw equally many images of every class.
    """
    run = None if training.run is None else run_folder(training.run)
    shared: dict[str, Any] = {"criterion": criterion, "out": out, "rounds": rounds}
    shared["options"] = {k: value for k, value in asdict(scoring).items() if value is not None}
    images_of = {"images": images, "balanced": balanced}
    if rival.rival is not None:
        whole = granularity == "block"
        refuse_beside_a_rival(goal=goal, rules=rules, measuring=measuring, granularity=not whole)
        model, choice = _network(model, run, training, choice)
        place = {"metering": energy, "device": where.device}
        request = RivalRequest(
            **shared, seed=seed, images=images_of, where=place, run=run, rewind=training.rewind
        )
        found = find_rival(rival, model, choice.load(), request)
        say(found, rival_text(model, found, rival, choice), as_json=json)
        return
    how: dict[str, Any] = {
        "criterion": criterion,
        "granularity": granularity,
        "rounds": 1 if rounds is None else rounds,
        "rules": MethodRules(**asdict(rules)),
        "options": shared["options"],
        **images_of,
    }
    method: Method = TicketMethod(**how)
    if run is not None:
        how |= {"rewind": training.rewind or "0", "score_at": training.score_epoch or "100%"}
        method = LotteryMethod(**how)
    model, choice = _network(model, run, training, choice)
    dataset = choice.load()
    at = Search(
        networks=Networks.of(dataset),
        model=model,
        dataset=dataset,
        seed=seed,
        out=out,
        budget=goal.budget(),
        recipe=Recipe(epochs=measuring.forecast_epochs or 200, batch_size=measuring.batch_size),
        dense=run,
        device=where.device,
        metering=energy,
        timing_rounds=measuring.timing_rounds,
        forecast=measuring.forecast_epochs is not None,
    )
    record = search(method, at)
    say(record, _text(model, record, choice), as_json=json)


def _network(
    model: str | None, run: Path | None, training: Training, choice: DataChoice
) -> tuple[str, DataChoice]:
    """Tell which network on which data, as given or as in a run."""
    if run is not None:
        return _of_run(run, model, choice)
    if model is not None and training == Training():
        return model, choice
    raise LayerticketError(
        "--rewind and --score-epoch need a trained network: give --run RUN."
        if model
        else "there is no network to find a ticket in: give MODEL, or --run RUN."
    )


def _of_run(run: Path, model: str | None, choice: DataChoice) -> tuple[str, DataChoice]:
    """Take model and data from a run; what is given as well has to agree with it."""
    config = read_json(run / RUN)["config"]
    given = {"model": model, "data": choice.data, "validation_fraction": choice.validation_fraction}
    unset = {"model": None} | asdict(DataChoice())
    for name, value in given.items():
        if value not in (unset[name], config[name]):
            raise LayerticketError(
                f"{name} is {value!r}, but {run} is about {config[name]!r}. Leave it out: it is "
                "taken from the run."
            )
    fields = {name: config[name] for name in ("data", "validation_fraction")}
    return config["model"], replace(choice, **fields)


def _text(model: str, record: dict[str, Any], choice: DataChoice) -> str:
    """Tell what was found, and how to go on."""
    folder = "" if choice.data_dir is None else f" --data-dir {choice.data_dir}"
    macs, params, origin = record["macs"], record["params"], record["origin"]
    history = (
        f"Scored at epoch {origin['scored_epoch']} of {origin['run']}, set back to epoch "
        f"{origin['rewind_epoch']} of {origin['recipe']['epochs']}.\n"
        if origin
        else ""
    )
    return history + (
        f"{record['criterion']} ticket of {model}: {len(record['removed'])} blocks removed "
        f"({', '.join(record['removed'])}), {len(record['kept'])} removable blocks kept.\n"
        f"MACs {macs['dense'] / 1e6:.2f} M -> {macs['ticket'] / 1e6:.2f} M "
        f"({1 - macs['ticket'] / macs['dense']:.1%} saved), parameters {params['dense']:,} -> "
        f"{params['ticket']:,}; scored in {record['score_seconds']:.2f} s"
        f"{energy_text(record['search_energy_kwh'], record['search_co2_kg'])}.\nSaved in "
        f"{record['ticket']}. Train it: layerticket train {model} --ticket {record['ticket']} "
        f"--data {choice.data}{folder}" + forecast_text(record["forecast"])
    )
