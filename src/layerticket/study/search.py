"""Run the search of each method: find what it trains, and record the cost of finding it."""

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerticket.baselines.controls import (
    control_ticket,
    equal_compute_epochs,
    match_record,
    shallower,
)
from layerticket.baselines.filters import find_filter_ticket
from layerticket.baselines.weights import find_weight_ticket, next_mask_ticket, shares_of
from layerticket.counting import count_macs
from layerticket.data.dataset import Dataset
from layerticket.errors import LayerticketError
from layerticket.evaluation.energy import carbon_kg, metered
from layerticket.files import digest, read_json, write_json
from layerticket.lottery import draw_batch, find_in_training
from layerticket.selection import Budget
from layerticket.study.forecast import forecast
from layerticket.study.measured_budget import TimingSetup, find_measured
from layerticket.study.methods import (
    ControlMethod,
    EqualComputeMethod,
    FiltersMethod,
    ImpMethod,
    Kind,
    LotteryMethod,
    Method,
    ShallowerMethod,
    TicketMethod,
    WeightsMethod,
)
from layerticket.study.record import (
    BILL,
    FIRST,
    WEIGHTS,
    Bill,
    Cost,
    Result,
    check_data,
    read_config,
)
from layerticket.study.status import curve_of
from layerticket.study.train import Networks, train_network
from layerticket.tensors import load_tensors
from layerticket.ticket.find import find_ticket
from layerticket.ticket.ticket import ROUNDS, Ticket, architecture_digest, weights_digest
from layerticket.training.checkpoint import (
    Snapshot,
    epoch_at,
    load_snapshot,
    snapshot_path,
)
from layerticket.training.device import Where
from layerticket.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Search:
    """Everything that a search needs: network, data, budget, seed, folders."""

    networks: Networks
    model: str
    dataset: Dataset
    given: tuple[Tensor, Tensor] | None = None
    """The batch to score on; None: it is drawn from the data set."""
    seed: int | None
    """Seed of theta_0, scoring batch and random draws; None: the seed of the run or reference."""
    out: Path
    """Folder for the result."""
    budget: Budget | None = None
    recipe: Recipe = Recipe()  # noqa: RUF009 - frozen
    draw: int | None = None
    dense: Path | None = None
    """Folder of the training that is scored, for methods that need one."""
    reference: Path | None = None
    """Folder of the ticket whose cost is matched, for methods that need one."""
    train: Callable[[Path], Path] | None = None
    """Trains the ticket in a folder and returns the folder of the training; used between rounds."""
    where: Where = Where()  # noqa: RUF009 - frozen
    timing_rounds: int = 7
    """Rounds of timed steps, for a measured budget or a forecast."""
    forecast: bool = False
    """Whether to forecast the training of the dense network and the ticket by `recipe`."""
    noise: bool = False
    """Whether to compare the score gap at the cut with its noise, for tickets of blocks."""

    @property
    def timing(self) -> TimingSetup:
        """Data, recipe and device for timed steps."""
        return TimingSetup(
            dataset=self.dataset,
            recipe=self.recipe,
            where=self.where,
            rounds=self.timing_rounds,
        )

    def batch(self, method: Any, seed: int) -> Any:  # noqa: ANN401 - of any method that scores
        """Draw the scoring batch of a method; 100 images are enough for one that reads none."""
        if self.given is not None:
            return self.given
        images, balanced = method.images, method.balanced
        if images is None and self.dataset.classes > 10 and not method.needs_labels:
            images, balanced = 100, False
        return draw_batch(self.dataset, images, seed=seed, balanced=balanced)


def find(method: Method, at: Search) -> dict[str, Any]:
    """Run the search of a method and save its result.

    Args:
        method: The method and its settings.
        at: Network, data, budget and folders.

    Returns:
        What `layerticket find --json` prints; the cost includes the trainings that were scored.

    Raises:
        LayerticketError: If nothing is found, or an argument is invalid.
    """
    record = SEARCHES[method.kind](method, at)
    total = Bill.of(read_json(at.out / BILL), str(at.out / BILL)).total
    seconds = (total.train_seconds, total.search_seconds)
    printed = {
        "search_seconds": None if None in seconds else sum(seconds),  # type: ignore[arg-type]
        "search_energy_kwh": total.energy_kwh,
        "search_co2_kg": carbon_kg(total.energy_kwh, at.where.metering),
    }
    return {key: value for key, value in record.items() if key != "inputs"} | printed


def find_at_initialization(method: TicketMethod, at: Search) -> dict[str, Any]:
    """Find a ticket at initialization (Algorithm 2)."""
    seed = at.seed or 0
    dense = at.networks.build(at.model, seed)
    assert at.budget is not None
    search = functools.partial(
        find_ticket,
        dense,
        at.batch(method, seed),
        budget=at.budget,
        name=at.model,
        seed=seed,
        noise=at.noise and method.needs_labels,
        **_find_options(method, seed),
    )
    return _find_blocks_ticket(lambda costs: search(costs=costs), dense, method, at, Bill(items={}))


def find_in_training_of(method: LotteryMethod, at: Search) -> dict[str, Any]:
    """Find a ticket in a trained network and rewind it to an earlier epoch (Algorithm 1).

    If the trained network is a ticket, this is the next round: more of its blocks are removed, and
    the budget still counts from the dense network. So each round can be trained before the next.
    """
    run = _Trained.of(at)
    recipe, scored = run.recipe, epoch_at(method.score_at, run.recipe.epochs)
    theta_i = run.theta(epoch_at(method.rewind, recipe.epochs))
    dense = at.networks.build(run.model, run.seed)
    seed = run.seed if at.seed is None else at.seed
    search = functools.partial(
        find_in_training,
        dense,
        at.batch(method, seed),
        run=run.folder.name,
        scored=run.theta(scored),
        rewind_to=theta_i,
        recipe=recipe,
        within=run.ticket,
        budget=at.budget,
        name=run.model,
        seed=run.drawn_by,
        noise=at.noise and method.needs_labels,
        **_find_options(method, seed),
    )
    at = replace(at, model=run.model, recipe=recipe)
    before = run.bill(max(scored, theta_i.epoch))
    record = _find_blocks_ticket(lambda costs: search(costs=costs), dense, method, at, before)
    return record | {"inputs": run.inputs(scored, theta_i.epoch)}


def find_control(method: ControlMethod, at: Search) -> dict[str, Any]:
    """Remove blocks without a criterion, at the cost of the reference."""
    wanted, seed, dense = _reference_of(at)
    search = functools.partial(
        control_ticket,
        dense,
        wanted,
        method.control,
        draw=at.draw or 0,
        name=at.model,
        seed=seed,
    )
    found, cost = _search_and_save(search, at, Bill(items={}))
    return _baseline_record("control", found, at) | cost


def find_filters(method: FiltersMethod, at: Search) -> dict[str, Any]:
    """Remove filters at initialization until the network is as small as the reference."""
    return _find_smaller(method, at, functools.partial(find_filter_ticket, match=method.match))


def find_weights(method: WeightsMethod, at: Search) -> dict[str, Any]:
    """Mask single weights at initialization until as many parameters stay as in the ticket."""
    rounds: dict[str, Any] = {} if method.rounds is None else {"rounds": method.rounds}
    return _find_smaller(method, at, functools.partial(find_weight_ticket, **rounds))


def _find_smaller(
    method: FiltersMethod | WeightsMethod, at: Search, search: Callable[..., Ticket]
) -> dict[str, Any]:
    """Score filters or weights at initialization, and remove them down to the reference's size."""
    wanted, seed, dense = _reference_of(at)
    random = {"draw": seed if at.draw is None else at.draw} if method.criterion == "random" else {}
    found, cost = _search_and_save(
        functools.partial(
            search,
            dense,
            at.batch(method, seed),
            criterion=method.criterion,
            reference=wanted,
            name=at.model,
            seed=seed,
            **{**random, **method.options},
        ),
        at,
        Bill(items={}),
    )
    return _baseline_record(method.kind, found, at) | cost


def find_imp(method: ImpMethod, at: Search) -> dict[str, Any]:
    """Prune iteratively by magnitude: train, mask the smallest weights, rewind, in rounds.

    Round 1 scores the dense training. Each round except the last trains its masked network, which
    the next round scores. An interrupted search resumes when called again. Cost: the dense training
    and `rounds` - 1 trainings of the masked network, at the same cost because masks save no time.
    """
    run = _Trained.of(at)
    if run.config["removed"] is not None:
        raise LayerticketError(
            f"{run.folder} is the run of a ticket, but iterative pruning starts from the dense "
            "network. Give the run of the dense network."
        )
    train = at.train or functools.partial(_train_round, run, at)
    epochs, theta_i = run.recipe.epochs, run.theta(epoch_at(method.rewind, run.recipe.epochs))
    wanted, _, dense = _reference_of(replace(at, model=run.model, seed=run.seed))
    shares = shares_of(dense, wanted, method.rounds)
    bill, within, trained, rounds = run.bill(epochs), None, run.folder, list[Path]()
    searched = Bill(items={})
    inputs = run.inputs(epochs, theta_i.epoch)
    for number, share in enumerate(shares, start=1):
        search = functools.partial(
            next_mask_ticket,
            dense,
            torch.zeros(1, *at.dataset.shape),
            scored=Snapshot(epoch=epochs, weights=load_tensors(trained / WEIGHTS)[0], optimizer={}),
            rewind_to=theta_i,
            within=within,
            share=share,
            reference=wanted,
            run=trained.name,
            recipe=run.recipe,
            name=run.model,
            seed=run.seed,
        )
        within, cost, own = _measured_search(search, at)
        searched |= own
        if number < len(shares):
            trained = train(within.save(at.out / ROUNDS / f"ticket-{number}"))
            result = Result.load(trained)
            bill |= Bill(items={trained.name: result.cost})
            inputs[trained.name] = {"end": result.weights}
            rounds.append(trained)
    assert within is not None  # there is at least one round
    within.save(at.out)
    write_json(at.out / BILL, (bill | searched).as_record())
    cost |= {
        "search_seconds": searched.total.search_seconds,
        "search_energy_kwh": searched.total.energy_kwh,
        "search_co2_kg": searched.total.co2_kg,
    }
    trainings = {"rounds": list(shares), "runs": [str(folder) for folder in rounds]}
    return _baseline_record("weights", within, at) | cost | trainings | {"inputs": inputs}


def _train_round(run: "_Trained", at: Search, ticket: Path) -> Path:
    """Train the ticket of one round, in the folder of the rounds."""
    done = train_network(
        run.model,
        at.dataset,
        run.recipe,
        seed=run.seed,
        out=at.out / ROUNDS,
        ticket=ticket,
        validation_fraction=run.config["validation_fraction"],
        where=at.where,
    )
    return Path(done["run"])


def find_shallower(method: ShallowerMethod, at: Search) -> dict[str, Any]:
    """Return the named shallower network, or the standard one nearest in MACs."""
    assert at.reference is not None
    reference = Ticket.load(at.reference)
    name = method.model or shallower(at.model, reference)
    macs = count_macs(
        at.networks.build(name, at.seed or 0), at.dataset.train.fetch(slice(1)).float()
    )
    counted = reference.counted_macs
    both = {"dense": counted["dense"], "reference": counted["ticket"]}
    return {
        "model": name,
        "macs": {"dense": counted["dense"], "ticket": macs},
        "match": match_record("macs", reference, {"macs": {**both, "baseline": macs}}),
    }


def find_equal_compute(method: EqualComputeMethod, at: Search) -> dict[str, Any]:
    """Compute the epochs of the dense network that use as much compute as the ticket's training."""
    assert at.reference is not None
    reference = Ticket.load(at.reference)
    dense = reference.macs["dense"]
    epochs = equal_compute_epochs(reference, at.recipe.epochs)
    return {"epochs": epochs, "macs": {"dense": dense, "ticket": dense}}


SEARCHES: Mapping[Kind, Callable[[Any, Search], dict[str, Any]]] = {
    "ticket": find_at_initialization,
    "lottery": find_in_training_of,
    "control": find_control,
    "filters": find_filters,
    "weights": find_weights,
    "imp": find_imp,
    "shallower": find_shallower,
    "equal_compute": find_equal_compute,
}
"""The search of each method; its record has `ticket` (a folder), `model` or `epochs`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Trained:
    """A finished training, used for scoring and rewinding."""

    folder: Path
    config: Mapping[str, Any]
    result: Result
    recipe: Recipe

    @classmethod
    def of(cls, at: Search) -> "_Trained":
        """Read the training of a search; raise if it has no recipe or other data."""
        assert at.dense is not None
        config = read_config(at.dense)
        if config["recipe"] is None:
            raise LayerticketError(
                f"{at.dense} was trained by a fit of your own; its epochs and snapshots are not "
                "known. Give a training by a recipe."
            )
        check_data(at.dense, config, at.dataset)
        return cls(
            folder=at.dense.resolve(),
            config=config,
            result=Result.load(at.dense),
            recipe=Recipe(**config["recipe"]),
        )

    @property
    def ticket(self) -> Ticket | None:
        """Ticket that was trained; None for the dense network."""
        return _ticket_of(self.folder, self.config)

    @property
    def model(self) -> str:
        """Name of the dense network."""
        return str(self.config["model"])

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return int(self.config["seed"])

    @property
    def drawn_by(self) -> int | None:
        """Seed that drew theta_0; None if it was not drawn by a seed."""
        if "drawn" in self.config["start"]:
            return int(self.config["start"]["drawn"]["seed"])
        ticket = self.ticket
        return None if ticket is None else ticket.seed

    def theta(self, epoch: int) -> Snapshot:
        """Return the weights after so many epochs: final (the average), a snapshot, or initial."""
        if epoch == self.recipe.epochs:
            weights = load_tensors(self.folder / WEIGHTS)[0]
            return Snapshot(epoch=epoch, weights=weights, optimizer={})
        begins = epoch == self.config["start_epoch"]
        if (
            begins
            and (self.folder / FIRST).exists()
            and not snapshot_path(self.folder, epoch).exists()
        ):
            ticket = self.ticket if epoch else None
            weights = load_tensors(self.folder / FIRST)[0]
            if ticket is None:
                return Snapshot(epoch=epoch, weights=weights)
            at = {"optimizer": ticket.optimizer, "average": ticket.average}
            return Snapshot(epoch=epoch, weights=weights, **at)
        return load_snapshot(self.folder, epoch)

    def inputs(self, *epochs: int) -> dict[str, dict[str, str]]:
        """Return digests of the weights at some epochs, to check later that they are unchanged."""
        parts = {"end" if e == self.recipe.epochs else str(e) for e in epochs}
        known = {"end": self.result.weights, **self.result.snapshots}
        return {self.folder.name: {part: known[part] for part in sorted(parts) if part in known}}

    def bill(self, epoch: int) -> Bill:
        """Return the cost up to an epoch, plus that of finding its own ticket (None: not known)."""
        cost, start = self.result.cost, int(self.config["start_epoch"])
        if epoch < self.recipe.epochs:
            cost = cost.share(_share_of_time(self.folder, epoch - start, self.result))
        own, ticket = Bill(items={self.folder.name: cost}), self.ticket
        if ticket is None:
            return own
        found = Bill.of_ticket(Path(self.config["ticket"]))
        if found is None:
            trained = 0.0 if ticket.origin is None else None
            unknown = Cost(train_seconds=trained, search_seconds=None, energy_kwh=None, co2_kg=None)
            found = Bill(items={f"search-of-{ticket.digest[:16]}": unknown})
        return own | found


def _share_of_time(folder: Path, epochs: int, result: Result) -> float:
    """Return the share of a training's seconds that its first epochs took."""
    known = curve_of(folder)[:epochs] if epochs > 0 else []
    seconds = known[-1]["train_seconds"] if known and known[-1] is not None else None
    return 0.0 if seconds is None else float(seconds) / result.train_seconds


def _ticket_of(run: Path, config: Mapping[str, Any]) -> Ticket | None:
    """Read the ticket that was trained, from the folder noted when the training started."""
    if config["removed"] is None:
        return None
    if config["removed"]["kind"] != "blocks":
        raise LayerticketError(
            f"{run} trained a network with {config['removed']['kind']} removed; further rounds "
            "are possible for blocks only."
        )
    folder = Path(config["ticket"] or "")
    try:
        found = Ticket.load(folder)
    except LayerticketError as err:
        raise LayerticketError(
            f"the next round needs the ticket in {folder}, which {run} trained: {err}"
        ) from err
    if sorted(found.removed) != config["removed"]["removed"]:
        raise LayerticketError(f"the ticket in {folder} is not the one that {run} trained.")
    return found


def _find_blocks_ticket(
    search: Callable[[Any], Ticket],
    dense: nn.Module,
    method: TicketMethod | LotteryMethod,
    at: Search,
    before: Bill,
) -> dict[str, Any]:
    """Find a ticket of blocks for a measured or counted budget; save it and return its record."""
    budget, measured = at.budget, list[dict[str, Any]]()
    assert budget is not None

    def counted_or_measured() -> Ticket:
        if not budget.measured:
            return search(None)
        setup = replace(at.timing, granularity=method.granularity)
        ticket, record = find_measured(at.model, dense, budget, search, setup)
        measured.append(record)
        return ticket

    ticket, cost = _search_and_save(counted_or_measured, at, before)
    predicted = None
    if at.forecast:
        models = {"dense": dense, "ticket": ticket.apply(dense)}
        predicted = forecast(models, at.timing, start=ticket.rewind_epoch)
    return (
        _ticket_record(ticket, at)
        | cost
        | {"measured": measured[0] if measured else None, "forecast": predicted}
    )


def _measured_search(
    search: Callable[[], Ticket], at: Search
) -> tuple[Ticket, dict[str, Any], Bill]:
    """Run a search; return its ticket, its time and energy, and the same as a bill."""
    with metered(at.where) as (meter, method):
        begun = time.perf_counter()
        found = search()
        seconds = time.perf_counter() - begun
        kwh = None if meter is None else meter.lap().kwh
    co2 = carbon_kg(kwh, at.where.metering)
    # Two searches may find the same ticket; the cost of both counts.
    name = f"search-{digest([at.out.name, found.digest])[:16]}"
    bill = Bill(items={name: Cost(search_seconds=seconds, energy_kwh=kwh, co2_kg=co2)})
    spent = {
        "search_seconds": seconds,
        "search_energy_kwh": kwh,
        "search_co2_kg": co2,
        "energy_method": method,
    }
    return found, spent, bill


def _search_and_save(
    search: Callable[[], Ticket], at: Search, before: Bill
) -> tuple[Ticket, dict[str, Any]]:
    """Run a search, and save its ticket with the bill of everything it needed."""
    found, spent, bill = _measured_search(search, at)
    found.save(at.out)
    write_json(at.out / BILL, (before | bill).as_record())
    return found, spent


def _reference_of(at: Search) -> tuple[Ticket, int, nn.Module]:
    """Return the reference, the seed, and the dense network of both.

    Raises if the dense network has another theta_0 than the reference. This is not checked for a
    reference found in a training, since its weights are not theta_0. The search itself checks the
    architecture.
    """
    assert at.reference is not None
    reference = Ticket.load(at.reference)
    seed = reference.seed if at.seed is None else at.seed
    if seed is None:
        raise LayerticketError(
            f"the reference, a ticket of {reference.model!r}, does not record the seed of its "
            "weights. Give the seed."
        )
    dense = at.networks.build(at.model, seed)
    comparable = reference.origin is None and architecture_digest(dense) == reference.architecture
    if comparable and weights_digest(dense) != reference.weights:
        raise LayerticketError(
            f"{at.model!r} with seed {seed} has other weights than the reference (seed "
            f"{reference.seed}), but a baseline must start from the same theta_0. Leave the seed "
            "out, or give a ticket found in this network with this version of torch."
        )
    return reference, seed, dense


def _find_options(method: TicketMethod | LotteryMethod, seed: int) -> dict[str, Any]:
    """Return the options of `find_ticket`; `random` uses the seed unless `draw` is given."""
    draw = {"draw": seed} if method.criterion == "random" else {}
    return {
        "criterion": method.criterion,
        "rounds": method.rounds,
        "granularity": method.granularity,
        **asdict(method.rules),
        **draw,
        **method.options,
    }


def _ticket_record(ticket: Ticket, at: Search) -> dict[str, Any]:
    """Return what `layerticket find --json` prints for a ticket of blocks."""
    return {
        "ticket": str(at.out),
        "criterion": ticket.criterion,
        "removed": list(ticket.removed),
        "kept": list(ticket.kept),
        "scores": dict(ticket.scores),
        "macs": dict(ticket.macs),
        "params": dict(ticket.params),
        "score_seconds": ticket.score_seconds,
        "rounds": [list(names) for names in ticket.order],
        "cuts": [asdict(cut) for cut in ticket.cuts],
        "origin": None if ticket.origin is None else asdict(ticket.origin),
    }


def _baseline_record(kind: str, found: Ticket, at: Search) -> dict[str, Any]:
    """Return what `layerticket find --json` prints for a baseline or control."""
    left = {name: int(mask.sum()) for name, mask in found.masks.items()}
    left |= {name: len(found.init[f"{name}.weight"]) for name in found.filters}
    return {
        "ticket": str(at.out),
        "kind": kind,
        "criterion": found.criterion,
        "removed": found.removed_record,
        "kept": list(found.kept) if found.kind == "blocks" else left,
        "scores": dict(found.scores) or None,
        "macs": dict(found.macs),
        "sparse_macs": found.sparse_macs,
        "params": dict(found.params),
        "match": found.match,
        "options": dict(found.options),
        "score_seconds": found.score_seconds,
    }
