"""`layerticket find`: find a ticket, or a baseline matched to a ticket."""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from layerticket.blocks.block import Granularity
from layerticket.cli.options import (
    Device,
    Folder,
    InputOptions,
    Json,
    group,
    input_line,
    shape_named,
)
from layerticket.cli.output import emit
from layerticket.criteria.registry import criterion_names
from layerticket.errors import LayerticketError
from layerticket.models.names import check_model_name
from layerticket.selection import Budget
from layerticket.settings import Count, Few, Flag, Many, Positive, Text, Whole, settings
from layerticket.study.methods import (
    ControlMethod,
    FiltersMethod,
    ImpMethod,
    LotteryMethod,
    Method,
    Rules,
    TicketMethod,
    WeightsMethod,
)
from layerticket.training.device import Metering, Where
from layerticket.verdict import words

CONTROLS = ("random", "first", "last", "even")


@Parameter(name="*", group=group("Scoring"))
@settings
class Scoring:
    """How blocks are scored; by default as in the criterion's paper."""

    reduction: Literal["sum", "mean"] | None = None
    """Block score: sum (default) or mean over the block's weights."""
    normalization: Literal["batch", "running"] | None = None
    """Batch norm with the statistics of the batch (default of snip and grasp) or the running
    averages (default of synflow and of the criteria for trained networks)."""
    temperature: Positive | None = None
    """Divides the logits in the loss; by default 200 for grasp, 1 for snip."""
    micro_batches: Count | None = None
    """Number of parts to process the scoring batch in, to limit memory."""
    hessian: Literal["auto", "shortcut", "exact"] | None = None
    """GraSP with the shortcut if it is valid (auto, default), or always shortcut or exact."""
    halves: Flag | None = None
    """GraSP on the two halves of the batch sorted by class, as in its authors' code."""
    redraw: Whole | None = None
    """Redraw the classifier (grasp) or all weights (snip) with this seed before scoring, as in
    their authors' code."""
    zero_init: Literal["as-one"] | None = None
    """as-one: score as if gains that start at zero (zero-initialized branches) were one."""
    images: Count | None = None
    """Number of images to score on; by default ten per class, or at most 100 if the criterion reads
    none."""
    balanced: Flag = True
    """Draw equally many images of each class."""
    noise: Flag = True
    """Also score two halves of the batch, at about twice the cost, and warn if the score gap
    between the last removed and the first kept block is below its noise."""

    @property
    def options(self) -> dict[str, Any]:
        """The given options of the criterion."""
        apart = ("images", "balanced", "noise")
        return {k: v for k, v in asdict(self).items() if v is not None and k not in apart}


@Parameter(name="*", group=group("In a trained network"))
@settings
class InTraining:
    """Find the ticket in a trained network and rewind it (Algorithm 1)."""

    run: Path | None = None
    """Run that trained the network, with --keep; gives model, data and theta_0."""
    rewind: Text | None = None
    """Epoch i that the kept weights are rewound to, or a share such as 25%; by default 0."""
    score_epoch: Text | None = None
    """Epoch whose weights are scored, for early tickets; by default the last."""


@Parameter(name="*", group=group("Baselines"))
@settings
class Baseline:
    """Find a baseline with the cost of a ticket, instead of a ticket."""

    baseline: Literal["filters", "weights", "random", "first", "last", "even"] | None = None
    """filters: remove filters (--criterion snip, grasp, l1, random); weights: mask weights (snip,
    grasp, synflow, magnitude; with --run and --rounds: iterative magnitude pruning); random, first,
    last, even: remove blocks without a criterion."""
    reference: Path | None = None
    """Folder of the ticket to match."""
    match: Literal["filters", "macs", "params"] | None = None
    """What --baseline filters matches; by default the number of filters. Blocks are matched in
    MACs, weights in parameters."""
    draw: Whole | None = None
    """Number of the draw of random blocks (by default 0) or random filters (by default --seed)."""
    slices: Literal["filters", "all"] | None = None
    """Score a channel by its filters (default of l1), or by all weights removed with it."""

    def __post_init__(self) -> None:
        if (self.baseline is None) != (self.reference is None):
            raise LayerticketError(
                "--baseline and --reference belong together: a baseline is matched to the cost of "
                "a ticket. Give both, or neither."
            )


@Parameter(name="*", group=group("Measuring"))
@settings
class Measuring:
    """Measurement of steps, for a measured budget and for a forecast."""

    batch_size: Count = 128
    """Images per training step."""
    forecast_epochs: Many | None = None
    """Forecast time, energy and carbon of this many epochs of training."""
    timing_rounds: Few = 7
    """Rounds of timed steps, with dense network and ticket in alternation."""


def find(
    model: str | None = None,
    /,
    *,
    out: Folder,
    budget: Budget | None = None,
    criterion: Annotated[
        str, Parameter(help=f"One of {', '.join(criterion_names())}, or package.module:NAME.")
    ] = "grasp",
    granularity: Granularity = "block",
    seed: Whole | None = None,
    rounds: Few | None = None,
    data: InputOptions = InputOptions(),
    scoring: Scoring = Scoring(),
    rules: Rules = Rules(),
    training: InTraining = InTraining(),
    baseline: Baseline = Baseline(),
    measuring: Measuring = Measuring(),
    energy: Metering = Metering(),
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Find a candidate for a winning ticket: score the blocks, remove the lowest.

    By default at initialization; with --run in a trained network, which is then rewound. With
    --baseline, find a baseline with the cost of the ticket in --reference.

    Parameters
    ----------
    model
        resnet14, 20, 32, 44, 56, 110, 1202 (also with -projection), timm:NAME,
        torchvision:NAME, hf:CONFIG-OR-FOLDER, or package.module:function. With --run, that of the
        run.
    out
        Folder to write the ticket to.
    granularity
        block: remove whole blocks; branch: attention and multilayer perceptron separately.
    seed
        Seed of theta_0, the scoring images, and criterion random; by default 0, or the seed of
        --run (which has its own theta_0) or of --reference.
    rounds
        Number of rounds; each scores the smaller network anew. By default 1; for synflow on weights
        100; for weights of a --run as many as needed when each removes a fifth.
    """
    # Everything is checked before any network is built.
    if model is not None:
        check_model_name(model)
    if baseline.baseline is not None:
        idle = {"budget": budget, "rules": rules, "measuring": measuring}
        method = _baseline(baseline, training, criterion, rounds, scoring, granularity, idle)
    else:
        method = _ticket(training, criterion, rounds, scoring, granularity, rules)
        if budget is None:
            words = ", ".join(f"--{field.name.replace('_', '-')}" for field in fields(Budget))
            raise LayerticketError(f"the budget is missing. Give one of {words}.")

    from layerticket.study.record import run_folder
    from layerticket.study.search import Search
    from layerticket.study.search import find as search
    from layerticket.study.train import Networks
    from layerticket.training.recipe import Recipe

    run = None if training.run is None else run_folder(training.run)
    model, data = _network(model, run, training, data)
    dataset, origin = data.images(model, measuring.batch_size)
    if method.needs_labels and not origin.startswith("data "):
        raise LayerticketError(
            f"criterion {criterion!r} scores on labelled images, and no data are given. Give "
            "--data (with --image-size where the network takes one size only), or take a "
            f"criterion that needs none: {', '.join(_without_images())}."
        )
    at = Search(
        networks=Networks.of(dataset),
        model=model,
        dataset=dataset,
        seed=seed,
        out=out,
        budget=budget,
        recipe=Recipe(epochs=measuring.forecast_epochs or 200, batch_size=measuring.batch_size),
        draw=baseline.draw,
        dense=run,
        reference=baseline.reference,
        where=Where(device=device, metering=energy),
        timing_rounds=measuring.timing_rounds,
        forecast=measuring.forecast_epochs is not None,
        noise=scoring.noise,
    )
    with shape_named(dataset.shape, origin):
        record = search(method, at)
    where = data.words if origin.startswith("data ") else "--data DATA"
    text = (
        _ticket_text(model, record, where)
        if baseline.baseline is None
        else _baseline_text(model, record, baseline, where)
    )
    record |= {"input": {"shape": list(dataset.shape), "from": origin}}
    emit(record, f"{input_line(dataset.shape, origin)}\n{text}", as_json=json)


def _without_images() -> list[str]:
    """Criteria that read neither images nor labels."""
    return [name for name in criterion_names() if not TicketMethod(criterion=name).needs_labels]


def _ticket(
    training: InTraining,
    criterion: str,
    rounds: int | None,
    scoring: Scoring,
    granularity: Granularity,
    rules: Rules,
) -> Method:
    """Return the method that finds the ticket."""
    options: dict[str, Any] = {
        "criterion": criterion,
        "granularity": granularity,
        "rounds": 1 if rounds is None else rounds,
        "rules": rules,
        "options": scoring.options,
        "images": scoring.images,
        "balanced": scoring.balanced,
    }
    if training.run is None:
        return TicketMethod(**options)
    options |= {"rewind": training.rewind or "0", "score_at": training.score_epoch or "100%"}
    return LotteryMethod(**options)


def _baseline(
    choice: Baseline,
    training: InTraining,
    criterion: str,
    rounds: int | None,
    scoring: Scoring,
    granularity: Granularity,
    idle: Mapping[str, object],
) -> Method:
    """Return the method that finds the baseline; raise for options it would ignore."""
    for name, value in idle.items():
        if value not in (None, Rules(), Measuring()):
            raise LayerticketError(
                f"options for the {name} of a ticket cannot be used with --baseline, which is "
                "matched to the ticket in --reference. Leave them out."
            )
    kind = "imp" if training.run is not None else str(choice.baseline)
    if kind == "imp" and choice.baseline != "weights":
        raise LayerticketError(
            f"--run cannot be used with --baseline {choice.baseline}, only with --baseline "
            "weights. Give MODEL instead of --run."
        )
    scored = {"--criterion", "options of a criterion", "--images"}
    read: Mapping[str, set[str]] = {
        "filters": scored | {"--match", "--draw", "--slices"},
        "weights": scored | {"--rounds"},
        "imp": {"--rounds"},
        "random": {"--draw"},
    }
    given = {
        "--criterion": criterion != "grasp",
        "--granularity": granularity != "block",
        "--match": choice.match is not None,
        "--draw": choice.draw is not None,
        "--slices": choice.slices is not None,
        "--rounds": rounds is not None,
        "--no-noise": not scoring.noise,
        "--images": scoring.images is not None or not scoring.balanced,
        "options of a criterion": bool(scoring.options),
    }
    for name, is_given in given.items():
        if is_given and name not in read.get(kind, ()):
            raise LayerticketError(
                f"--baseline {choice.baseline} does not use {name} here. Leave it out."
            )
    if kind == "imp":
        return ImpMethod(rounds=rounds, rewind=training.rewind or "0")
    if kind in CONTROLS:
        return ControlMethod(control=kind)  # type: ignore[arg-type]  # one of them
    options: dict[str, Any] = {
        "criterion": criterion,
        "options": scoring.options,
        "images": scoring.images,
        "balanced": scoring.balanced,
    }
    if kind == "weights":
        return WeightsMethod(rounds=rounds, **options)
    if choice.slices is not None:
        options["options"] |= {"slices": choice.slices}
    return FiltersMethod(match=choice.match or "filters", **options)


def _baseline_text(model: str, record: Mapping[str, Any], choice: Baseline, data: str) -> str:
    """Return as text the baseline, how close it is to the ticket, and the next command."""
    match, macs, params = record["match"], record["macs"], record["params"]
    by = match["by"]
    figures = match[by]
    gone = record["removed"]
    what = (
        f"{words.counted(len(gone), 'block')} removed ({', '.join(gone)})"
        if record["kind"] == "control"
        else f"{record['criterion']}, {_sum(gone):,} {record['kind']} removed"
    )
    lines = [
        f"{choice.baseline} baseline of {choice.reference} in {model}: {what}.",
        f"Matched in {by}: baseline {figures['baseline']:,}, ticket {figures['reference']:,}, "
        f"dense {figures['dense']:,} ({match['relative_difference']:+.3%}).",
        f"MACs {macs['dense'] / 1e6:.2f} M -> {macs['ticket'] / 1e6:.2f} M, parameters "
        f"{params['dense']:,} -> {params['ticket']:,}.",
    ]
    if record["kind"] == "weights":
        sparse = record["sparse_macs"]
        count = "" if sparse is None else f" ({sparse / 1e6:.2f} M MACs without the zeros)"
        lines.append(f"Masks save no time on ordinary hardware{count}.")
    lines.append(
        f"Saved in {record['ticket']}. Train it: layerticket train {model} "
        f"--ticket {record['ticket']} {data}"
    )
    return "\n".join(lines)


def _sum(gone: Mapping[str, Any]) -> int:
    """Count the removed weights (numbers) or filters (lists)."""
    return sum(len(some) if isinstance(some, list) else some for some in gone.values())


def _network(
    model: str | None, run: Path | None, training: InTraining, choice: InputOptions
) -> tuple[str, InputOptions]:
    """Return the network and the data, as given or from a run."""
    if run is not None:
        return _of_run(run, model, choice)
    if model is not None and training == InTraining():
        return model, choice
    raise LayerticketError(
        "--rewind and --score-epoch need a trained network: give --run RUN."
        if model
        else "the network is missing: give MODEL, or --run RUN."
    )


def _of_run(run: Path, model: str | None, choice: InputOptions) -> tuple[str, InputOptions]:
    """Return model and data of a run; raise if other ones were given."""
    from layerticket.study.record import read_config

    config = read_config(run)
    if config["recipe"] is None:
        raise LayerticketError(
            f"{run} was trained by your own function, so no ticket can be found in it here. Find "
            "one in Python: layerticket.lottery.find_in_training."
        )
    taken = ("data", "validation_fraction", "image_size", "value_range")
    stored: dict[str, Any] = {name: config.get(name) for name in taken}
    known = {**InputOptions(**stored).__dict__, "model": config["model"]}
    unset = InputOptions().__dict__ | {"model": None}
    given = choice.__dict__ | {"model": model}
    for name in ("model", *taken, "input_shape"):
        if given[name] not in (unset[name], known[name]):
            raise LayerticketError(
                f"{name} is {given[name]!r}, but {run} is about {known[name]!r}. Leave it out: it "
                "is taken from the run."
            )
    return config["model"], replace(choice, **{name: known[name] for name in taken})


def _cut_text(cut: Mapping[str, Any]) -> str:
    """Return the score gap at the cut and its noise, as text."""
    return (
        f"The scores of {cut['kept']} (kept) and {cut['removed']} (removed) differ by "
        f"{cut['gap']:.3g}, with a noise of {cut['noise']:.3g} over two halves of the batch "
        f"(scored in {cut['seconds']:.2f} s).\n"
    )


def _ticket_text(model: str, record: dict[str, Any], data: str) -> str:
    """Return as text the ticket and the next command."""
    macs, params, origin = record["macs"], record["params"], record["origin"]
    counted = (
        "MACs not counted"
        if macs["dense"] is None
        else f"MACs {macs['dense'] / 1e6:.2f} M -> {macs['ticket'] / 1e6:.2f} M "
        f"({1 - macs['ticket'] / macs['dense']:.1%} saved)"
    )
    history = (
        f"Scored at epoch {origin['scored_epoch']} of {origin['run']}, rewound to epoch "
        f"{origin['rewind_epoch']} of {origin['recipe']['epochs']}.\n"
        if origin
        else ""
    )
    gone, kept = record["removed"], words.counted(len(record["kept"]), "removable block")
    return history + (
        f"{record['criterion']} ticket of {model}: {words.counted(len(gone), 'block')} removed "
        f"({', '.join(gone)}), {kept} kept.\n"
        f"{counted}, parameters {params['dense']:,} -> "
        f"{params['ticket']:,}; scored in {record['score_seconds']:.2f} s"
        f"{words.electricity(record['search_energy_kwh'], record['search_co2_kg'])}.\n"
        f"{''.join(map(_cut_text, record['cuts']))}Saved in "
        f"{record['ticket']}. Train it: layerticket train {model} --ticket {record['ticket']} "
        f"{data}\n{words.forecast(record['forecast'])}"
    )
