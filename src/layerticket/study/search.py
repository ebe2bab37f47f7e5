"""Iterative magnitude pruning by name: its rounds are runs, like any other training."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import nn

from layerticket.baselines.controls import Control, control_ticket
from layerticket.baselines.filters import find_filter_ticket
from layerticket.baselines.weights import find_weight_ticket, next_mask_ticket, shares_of
from layerticket.blocks.block import Granularity
from layerticket.data.dataset import Dataset
from layerticket.errors import LayerticketError
from layerticket.evaluation.energy import Metering, carbon_kg, metered
from layerticket.files import read_json
from layerticket.lottery import draw_batch, find_in_training
from layerticket.selection import Budget
from layerticket.study.forecast import forecast
from layerticket.study.measure import Bench, FindTicket, find_measured
from layerticket.study.record import (
    RUN,
    TICKET,
    WEIGHTS,
    SearchBill,
    build_named,
    load_result,
    train_run,
)
from layerticket.tensors import load_tensors
from layerticket.ticket.find import find_ticket
from layerticket.ticket.ticket import Ticket, architecture_digest, weights_digest
from layerticket.training.checkpoint import Kept, epoch_at, load_kept
from layerticket.training.recipe import Recipe

Found = TypeVar("Found")


class _Find(Protocol):
    """`find_ticket` with everything but the block costs filled in."""

    def __call__(self, *, costs: Any = None) -> Ticket: ...  # noqa: ANN401 - as find_ticket has it


def search(
    find: _Find,
    name: str,
    dense: nn.Module,
    budget: Budget,
    bench: Bench,
    out: Path,
    before: SearchBill = SearchBill(),  # noqa: B008 - frozen
) -> tuple[Ticket, dict[str, Any]]:
    """Find a ticket, save it, and leave the bill of the search beside it.

    Args:
        find: Finds a ticket, given what measures the blocks.
        name: What the network is built by.
        dense: The network; not modified.
        budget: How much is to go; what is measured is measured here.
        bench: What is measured on, and how energy is metered.
        out: Folder of the ticket.
        before: What was paid before, such as the training of the network that is scored.

    Returns:
        The ticket; and its search in seconds, kWh and kg CO2e (None where not metered), how
        energy was metered, and what a measured budget came to.

    Raises:
        LayerticketError: As `find_ticket` does, or when a measured budget cannot be met.
    """

    def either() -> tuple[Ticket, dict[str, Any] | None]:
        if not budget.measured:
            return find(), None
        by_costs: FindTicket = lambda costs: find(costs=costs)  # noqa: E731 - a name for its type
        return find_measured(name, dense, budget, by_costs, bench)

    (ticket, measured), bill, told = priced(either, bench.metering, bench.device, before)
    ticket.save(out)
    bill.save(out)
    return ticket, told | {"measured": measured}


def priced(
    find: Callable[[], Found],
    metering: Metering | None,
    device: str,
    before: SearchBill = SearchBill(),  # noqa: B008 - frozen
) -> tuple[Found, SearchBill, dict[str, Any]]:
    """Find something, and tell what it took.

    Args:
        find: Does the search.
        metering: What the user states about energy; None: it is not metered.
        device: Device it runs on.
        before: What was paid before.

    Returns:
        What was found; the bill, to be left beside it; the bill as `find --json` prints it.
    """
    with metered(metering, device) as (meter, method):
        started = time.perf_counter()
        found = find()
        seconds = time.perf_counter() - started
        used = None if meter is None else meter.lap().kwh
    bill = before.plus(SearchBill(seconds=seconds, kwh=used, method=method))
    return (
        found,
        bill,
        {
            "search_seconds": bill.seconds,
            "search_energy_kwh": bill.kwh,
            "search_co2_kg": carbon_kg(bill.kwh, metering),
            "energy_method": method,
        },
    )


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


def find_in(
    model: str,
    dataset: Dataset,
    *,
    budget: Budget,
    seed: int,
    out: Path,
    criterion: str = "grasp",
    granularity: Granularity = "block",
    images: int | None = None,
    balanced: bool = True,
    rounds: int = 1,
    rules: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    bench: Bench | None = None,
    foresee: bool = False,
) -> dict[str, Any]:
    """Find a ticket in a network of a name at its initialization by `seed`, and save it.

    Args:
        model: See `layerticket.models.load.build_model`.
        dataset: Images to score on come from its training split.
        budget: How much is to go.
        seed: Decides theta_0, the scoring batch and the draw of criterion `random`.
        out: Folder of the ticket.
        criterion: A registered name.
        granularity: Whether blocks go as a whole, or each residual branch of them by itself.
        images: Size of the scoring batch; None: ten of every class, as GraSP's authors take.
        balanced: Whether every class appears equally often.
        rounds: Rounds of scoring and removing, see `find_ticket`.
        rules: `protect`, `min_per_stage` and `keep_neighbours` of `select`.
        options: The criterion's own options.
        bench: What a measured budget is measured on and how energy is metered; not metered by
            default.
        foresee: Whether the training on `bench` is forecast for dense network and ticket.

    Returns:
        What `layerticket find --json` prints.

    Raises:
        LayerticketError: As `find_ticket` does.
    """
    dense = build_named(model, dataset, seed)
    find = functools.partial(
        find_ticket,
        dense,
        draw_batch(dataset, images, seed=seed, balanced=balanced),
        criterion=criterion,
        budget=budget,
        name=model,
        seed=seed,
        rounds=rounds,
        **_settings(criterion, granularity, seed, rules, options),
    )
    bench = bench or Bench(dataset=dataset, recipe=Recipe())
    ticket, bill = search(find, model, dense, budget, bench, out)
    return _told(ticket, out) | bill | _foreseen(dense, ticket, bench, wanted=foresee)


def find_in_run(
    run: Path,
    dataset: Dataset,
    *,
    budget: Budget,
    out: Path,
    criterion: str,
    granularity: Granularity = "block",
    seed: int | None = None,
    rewind_to: str | int = 0,
    score_at: str | int = "100%",
    images: int | None = None,
    balanced: bool = True,
    rounds: int = 1,
    rules: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    bench: Bench | None = None,
    foresee: bool = False,
) -> dict[str, Any]:
    """Find a ticket in the network of a finished run, set it back to theta_i, and save it.

    In the run of a ticket the next round is found: more blocks go from what that ticket kept, and
    the budget counts from the dense network. So rounds can have a training in between.

    Args:
        run: Folder of the run.
        dataset: The data of the run; images to score on come from the training split.
        budget: How much is to go.
        out: Folder of the ticket.
        criterion: A registered name.
        granularity: As in `find_in`; in the run of a ticket, that ticket's own.
        seed: Decides the scoring batch and the draw of criterion `random`; None: the run's.
        rewind_to: Epoch i the kept weights are set back to, or a share such as "25%"; the run has
            to have kept it.
        score_at: Epoch whose weights are scored: the last, or one that was kept (an early ticket).
        images: As in `find_in`.
        balanced: As in `find_in`.
        rounds: As in `find_in`; nothing is trained in between.
        rules: As in `find_in`.
        options: As in `find_in`.
        bench: As in `find_in`. What the run took is part of the bill of the search.
        foresee: As in `find_in`.

    Returns:
        What `layerticket find --json` prints.

    Raises:
        LayerticketError: If the run is not finished, its data are others, it did not keep an
            epoch, or as in `find_ticket`.
    """
    config, paid = _of_run(run, dataset)
    recipe, drawn = Recipe(**config["recipe"]), config["seed"] if seed is None else seed
    within = Ticket.load(run / TICKET) if config["ticket"] else None
    theta_i = _theta(run, epoch_at(rewind_to, recipe.epochs), recipe.epochs, within, config)
    dense = build_named(config["model"], dataset, config["seed"])
    find = functools.partial(
        find_in_training,
        dense,
        draw_batch(dataset, images, seed=drawn, balanced=balanced),
        run=run.resolve().name,
        scored=_theta(run, epoch_at(score_at, recipe.epochs), recipe.epochs, within, config),
        rewind_to=theta_i,
        recipe=recipe,
        within=within,
        criterion=criterion,
        budget=budget,
        name=config["model"],
        seed=_seed_of(config, within),
        rounds=rounds,
        **_settings(criterion, granularity, drawn, rules, options),
    )
    bench = bench or Bench(dataset=dataset, recipe=recipe)
    ticket, bill = search(find, config["model"], dense, budget, bench, out, before=paid)
    return _told(ticket, out) | bill | _foreseen(dense, ticket, bench, wanted=foresee)


def _foreseen(dense: nn.Module, ticket: Ticket, bench: Bench, *, wanted: bool) -> dict[str, Any]:
    """Forecast the training of dense network and ticket, if that is wanted."""
    if not wanted:
        return {"forecast": None}
    models = {"dense": dense, "ticket": ticket.apply(dense)}
    return {"forecast": forecast(models, bench, start=ticket.rewind_epoch)}


def _of_run(run: Path, dataset: Dataset) -> tuple[dict[str, Any], SearchBill]:
    """Read what a finished run was and what it took; refuse other data than its own."""
    config = read_json(run / RUN)["config"]
    result = load_result(run)
    if dataset.fingerprint != config["data_fingerprint"]:
        raise LayerticketError(
            f"{run} was trained on data of fingerprint {config['data_fingerprint'][:12]}, the "
            f"data given have {dataset.fingerprint[:12]}. Give the data it was trained on."
        )
    return config, SearchBill(seconds=result["train_seconds"], kwh=result["energy_kwh"])


def _theta(
    run: Path, epoch: int, epochs: int, within: Ticket | None, config: Mapping[str, Any]
) -> Kept:
    """Read the weights of a run at an epoch: its last, its first, or one it kept."""
    if epoch == epochs:
        return Kept(epoch=epoch, weights=load_tensors(run / WEIGHTS)[0], optimizer={})
    own = within is not None and config["initialization"] == "ticket"
    if within is not None and own and epoch == within.rewind_epoch:
        return Kept(epoch=epoch, weights=within.init, optimizer=within.optimizer)
    return load_kept(run, epoch)


def _seed_of(config: Mapping[str, Any], within: Ticket | None) -> int | None:
    """Return the seed that drew theta_0 of a run."""
    source = config["initialization"]
    if source == "ticket" and within is not None:
        return within.seed
    return int(source.removeprefix("seed ")) if source != "seed" else int(config["seed"])


def _settings(
    criterion: str,
    granularity: Granularity,
    seed: int,
    rules: Mapping[str, Any] | None,
    options: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Merge granularity, rules and options; `random` draws by the seed unless told otherwise."""
    draw = {"draw": seed} if criterion == "random" else {}
    return {"granularity": granularity, **(rules or {}), **draw, **(options or {})}


def _told(ticket: Ticket, out: Path) -> dict[str, Any]:
    """Return what `layerticket find --json` prints."""
    return {
        "ticket": str(out),
        "criterion": ticket.criterion,
        "removed": list(ticket.removed),
        "kept": list(ticket.kept),
        "scores": dict(ticket.scores),
        "macs": dict(ticket.macs),
        "params": dict(ticket.params),
        "score_seconds": ticket.score_seconds,
        "rounds": [list(names) for names in ticket.order],
        "origin": None if ticket.origin is None else asdict(ticket.origin),
    }


def find_control(
    model: str,
    dataset: Dataset,
    *,
    control: Control,
    reference: Path,
    out: Path,
    seed: int | None = None,
    draw: int = 0,
    metering: Metering | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Remove blocks without a criterion, at the cost of a ticket, and save the result as a ticket.

    Args:
        model: See `layerticket.models.load.build_model`.
        dataset: Gives classes and channels.
        control: Which blocks go, see `layerticket.baselines.controls.control_ticket`.
        reference: Folder of the ticket whose MACs are matched.
        out: Folder of the ticket.
        seed: Decides theta_0; by default that of the reference.
        draw: Number of the random draw.
        metering: What the user states about energy; not metered by default.
        device: Device whose energy is metered.

    Returns:
        What `layerticket find --json` prints.

    Raises:
        LayerticketError: As `control_ticket` does; or if the reference was found at another
            theta_0.
    """
    wanted = Ticket.load(reference)
    seed = seed_beside(wanted, seed)
    dense = dense_beside(wanted, model, dataset, seed)

    def find() -> Ticket:
        return control_ticket(dense, wanted, control, draw=draw, name=model, seed=seed)

    ticket, bill = save_priced(find, out, metering, device)
    return _told_control(ticket, out) | bill


def find_filters(
    model: str,
    dataset: Dataset,
    *,
    criterion: str,
    match: Literal["filters", "macs", "params"] = "filters",
    reference: Path,
    out: Path,
    seed: int | None = None,
    images: int | None = None,
    balanced: bool = True,
    metering: Metering | None = None,
    device: str = "auto",
    **options: Any,  # noqa: ANN401 - the criterion's own
) -> dict[str, Any]:
    """Remove filters of a network at initialization until it is as small as a ticket; save it.

    Args:
        model: As in `find_control`.
        dataset: Images to score on come from its training split.
        criterion: snip, grasp, l1 or random; the last draws by `seed` unless `draw` is given.
        match: What is made equal.
        reference: Folder of the ticket of layers that is matched.
        out: Folder of the rival.
        seed: Decides theta_0 and the scoring batch; by default that of the reference.
        images: Size of the scoring batch; None: ten of every class.
        balanced: Whether every class appears equally often.
        metering: As in `find_control`.
        device: As in `find_control`.
        **options: Those of `layerticket.baselines.filters.find_filter_ticket`.

    Returns:
        What `layerticket find --json` prints.

    Raises:
        LayerticketError: As `find_filter_ticket` does, or as `find_control`.
    """
    wanted = Ticket.load(reference)
    seed = seed_beside(wanted, seed)
    dense = dense_beside(wanted, model, dataset, seed)
    if criterion == "random":
        options = {"draw": seed} | options
    find = functools.partial(
        find_filter_ticket,
        dense,
        draw_batch(dataset, images, seed=seed, balanced=balanced),
        criterion=criterion,
        match=match,
        reference=wanted,
        name=model,
        seed=seed,
        **options,
    )
    rival, bill = save_priced(find, out, metering, device)
    return told_rival(rival, out) | bill


def find_weights(
    model: str,
    dataset: Dataset,
    *,
    criterion: str,
    reference: Path,
    out: Path,
    seed: int | None = None,
    images: int | None = None,
    balanced: bool = True,
    metering: Metering | None = None,
    device: str = "auto",
    **options: Any,  # noqa: ANN401 - the criterion's own
) -> dict[str, Any]:
    """Mask single weights at initialization until as many parameters are left as in a ticket.

    Args:
        model: As in `find_control`.
        dataset: As in `find_filters`.
        criterion: snip, grasp, synflow or magnitude.
        reference: Folder of the ticket of layers whose number of parameters is met.
        out: As in `find_filters`.
        seed: As in `find_filters`.
        images: As in `find_filters`.
        balanced: As in `find_filters`.
        metering: As in `find_control`.
        device: As in `find_control`.
        **options: Those of `layerticket.baselines.weights.find_weight_ticket`.

    Returns:
        What `layerticket find --json` prints.

    Raises:
        LayerticketError: As `find_weight_ticket` does, or as `find_control`.
    """
    wanted = Ticket.load(reference)
    seed = seed_beside(wanted, seed)
    find = functools.partial(
        find_weight_ticket,
        dense_beside(wanted, model, dataset, seed),
        draw_batch(dataset, images, seed=seed, balanced=balanced),
        criterion=criterion,
        reference=wanted,
        name=model,
        seed=seed,
        **options,
    )
    rival, bill = save_priced(find, out, metering, device)
    return told_rival(rival, out) | bill


def save_priced(
    find: Callable[[], Ticket], out: Path, metering: Metering | None, device: str
) -> tuple[Ticket, dict[str, Any]]:
    """Find something, save it with its bill beside it, and tell the bill."""
    found, bill, told = priced(find, metering, device)
    found.save(out)
    bill.save(out)
    return found, told


def told_rival(rival: Ticket, out: Path) -> dict[str, Any]:
    """Return what `layerticket find --json` prints about filters or weights."""
    return {
        "ticket": str(out),
        "kind": "weights" if rival.kind == "masks" else rival.kind,
        "criterion": rival.criterion,
        "removed": rival.removed_record,
        "kept": _kept(rival),
        "scores": dict(rival.scores) or None,
        "macs": dict(rival.macs),
        "sparse_macs": rival.sparse_macs,
        "params": dict(rival.params),
        "match": rival.match,
        "options": dict(rival.options),
        "score_seconds": rival.score_seconds,
    }


def _told_control(ticket: Ticket, out: Path) -> dict[str, Any]:
    return {
        "ticket": str(out),
        "kind": "control",
        "criterion": ticket.criterion,
        "removed": list(ticket.removed),
        "kept": list(ticket.kept),
        "scores": None,
        "macs": dict(ticket.macs),
        "sparse_macs": None,
        "params": dict(ticket.params),
        "match": ticket.match,
        "options": dict(ticket.options),
        "score_seconds": ticket.score_seconds,
    }


def _kept(rival: Ticket) -> dict[str, int]:
    """How many filters, or weights, each layer with some gone has left."""
    if rival.kind == "filters":
        return {name: len(rival.init[f"{name}.weight"]) for name in rival.removed}
    return {name: int(mask.sum()) for name, mask in rival.masks.items()}


ROUNDS = "rounds"


def find_imp(
    run: Path,
    dataset: Dataset,
    recipe: Recipe,
    *,
    rounds: int | None,
    rewind: str | int,
    reference: Path,
    out: Path,
    metering: Metering | None = None,
    device: str = "auto",
    **how: Any,  # noqa: ANN401 - handed on to `train_run`
) -> dict[str, Any]:
    """Play the original lottery: train, mask the smallest weights, rewind, in rounds; save it.

    Round 1 scores the dense run; every round but the last then trains its masked network as a run
    in ``out/rounds``, which the next one scores. What was interrupted goes on when called again.
    Cost: the dense training and `rounds` - 1 trainings of the masked network, each as dear as a
    dense one, because masks save no time.

    Args:
        run: Folder of a finished dense run that kept the epoch to rewind to.
        dataset: The data of the run.
        recipe: The recipe of the run.
        rounds: Rounds of equal shares; None: as many as it takes when each takes a fifth of the
            weights that are left.
        rewind: Epoch i, or a share such as "25%".
        reference: Folder of the ticket of layers whose number of parameters is met in the end.
        out: Folder of the rival.
        metering: What the user states about energy; not metered by default.
        device: "auto", "cpu", "cuda" or "cuda:N".
        **how: `seed` (by default that of the run), `validation_fraction`, `progress`, `command` of
            `train_run`.

    Returns:
        What `layerticket find --json` prints, and the runs of the rounds.

    Raises:
        LayerticketError: If the run is not a finished dense one of these data and this recipe, it
            did not keep the epoch, it began at another theta_0 than the reference, or as in
            `next_mask_ticket`.
    """
    config = _dense(run, dataset, recipe)
    theta_i = load_kept(run, epoch_at(rewind, recipe.epochs))
    wanted = Ticket.load(reference)
    dense = dense_beside(wanted, config["model"], dataset, config["seed"])
    step = functools.partial(
        next_mask_ticket,
        dense,
        torch.zeros(1, *dataset.shape),
        rewind_to=theta_i,
        reference=wanted,
        recipe=recipe,
        name=config["model"],
        seed=config["seed"],
    )
    how = {"seed": config["seed"], "validation_fraction": config["validation_fraction"]} | how
    train = functools.partial(
        train_run,
        config["model"],
        dataset,
        recipe,
        out=out / ROUNDS,
        device=device,
        metering=metering,
        **how,
    )
    shares = shares_of(dense, wanted, rounds)
    price = functools.partial(priced, metering=metering, device=device)
    ticket, bill, told, runs = _play(shares, run, recipe.epochs, step, train, price, out / ROUNDS)
    ticket.save(out)
    bill.save(out)
    return told_rival(ticket, out) | told | {"rounds": list(shares), "runs": runs}


def _play(
    shares: Sequence[float],
    run: Path,
    epochs: int,
    step: Callable[..., Ticket],
    train: Callable[..., dict[str, Any]],
    price: Callable[..., tuple[Ticket, SearchBill, dict[str, Any]]],
    folder: Path,
) -> tuple[Ticket, SearchBill, dict[str, Any], list[str]]:
    """Mask and train in turns, the last mask untrained; what each training took is on the bill."""
    bill, within, runs = _paid(run), None, [run]
    for number, share in enumerate(shares, start=1):
        trained = Kept(epoch=epochs, weights=load_tensors(runs[-1] / WEIGHTS)[0], optimizer={})
        name = runs[-1].resolve().name
        find = functools.partial(step, scored=trained, within=within, share=share, run=name)
        within, bill, told = price(find, before=bill)
        if number < len(shares):
            result = train(ticket=within.save(folder / f"ticket-{number}"))
            runs.append(Path(result["run"]))
            bill = bill.plus(_paid(runs[-1]))
    assert within is not None  # there is at least one round
    return within, bill, told, [str(trained) for trained in runs[1:]]


def _dense(run: Path, dataset: Dataset, recipe: Recipe) -> dict[str, Any]:
    """Read what a dense run was, and refuse any other."""
    load_result(run)
    config: dict[str, Any] = read_json(run / RUN)["config"]
    if config["ticket"]:
        raise LayerticketError(
            f"{run} trained a ticket; iterative pruning begins with the dense network. Give the "
            "run of the dense network."
        )
    if config["data_fingerprint"] != dataset.fingerprint or Recipe(**config["recipe"]) != recipe:
        raise LayerticketError(
            f"{run} was trained on other data or by another recipe. Give those of the run, so that "
            "every round repeats the end of the same training."
        )
    return config


def _paid(run: Path) -> SearchBill:
    result = load_result(run)
    return SearchBill(seconds=result["train_seconds"], kwh=result["energy_kwh"])
