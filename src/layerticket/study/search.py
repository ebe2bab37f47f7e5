"""Find by name what a method trains in place of the dense network, and what finding it took."""

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
    LotteryMethod,
    Method,
    ShallowerMethod,
    TicketMethod,
    WeightsMethod,
)
from layerticket.study.record import BILL, FIRST, WEIGHTS, Bill, Cost, Result, read_config
from layerticket.study.status import curve_of
from layerticket.study.train import Networks, train_network
from layerticket.tensors import load_tensors
from layerticket.ticket.find import find_ticket
from layerticket.ticket.ticket import Ticket, architecture_digest, weights_digest
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
    """Where, in what and for what budget something is searched."""

    networks: Networks
    model: str
    dataset: Dataset
    given: tuple[Tensor, Tensor] | None = None
    """The batch to score on; None: it is drawn from the data set."""
    seed: int | None
    """Decides theta_0, the scoring batch and random draws; None: that of run or reference."""
    out: Path
    """Folder of what is found."""
    budget: Budget | None = None
    recipe: Recipe = Recipe()  # noqa: RUF009 - frozen
    draw: int | None = None
    dense: Path | None = None
    """Folder of the training that is scored, for a method that wants one."""
    reference: Path | None = None
    """Folder of the ticket whose cost is matched, for a method that wants one."""
    train: Callable[[Path], Path] | None = None
    """Trains the ticket in a folder and returns the folder of its training, for rounds."""
    where: Where = Where()  # noqa: RUF009 - frozen
    timing_rounds: int = 7
    """Rounds in which steps are timed, for a measured budget or a forecast."""
    forecast: bool = False
    """Whether the training by `recipe` is forecast for dense network and ticket."""
    noise: bool = False
    """Whether the gap at the cut of a ticket of blocks is set against its noise."""

    @property
    def timing(self) -> TimingSetup:
        """What a measured budget is measured on, and how the search is metered."""
        return TimingSetup(
            dataset=self.dataset,
            recipe=self.recipe,
            where=self.where,
            rounds=self.timing_rounds,
        )

    def batch(self, method: Any, seed: int) -> Any:  # noqa: ANN401 - of any method that scores
        """Draw the images that a method scores on."""
        if self.given is not None:
            return self.given
        return draw_batch(self.dataset, method.images, seed=seed, balanced=method.balanced)


def find(method: Method, at: Search) -> dict[str, Any]:
    """Find what a method trains in place of the dense network, and save it.

    Args:
        method: What is searched, and how.
        at: Where, in what, and for what budget.

    Returns:
        What `layerticket find --json` prints; its cost is that of all that finding it took.

    Raises:
        LayerticketError: If there is none, or anything does not fit.
    """
    record = method.search(at)
    total = Bill.of(read_json(at.out / BILL), str(at.out / BILL)).total
    seconds = (total.train_seconds, total.search_seconds)
    printed = {
        "search_seconds": None if None in seconds else sum(seconds),  # type: ignore[arg-type]
        "search_energy_kwh": total.energy_kwh,
        "search_co2_kg": carbon_kg(total.energy_kwh, at.where.metering),
    }
    return {key: value for key, value in record.items() if key != "inputs"} | printed


def find_at_initialization(method: TicketMethod, at: Search) -> dict[str, Any]:
    """Find a ticket in the network at its initialization by the seed (Algorithm 2)."""
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
        noise=at.noise,
        **_how(method, seed),
    )
    return _searched(lambda costs: search(costs=costs), dense, method, at, Bill(items={}))


def find_in_training_of(method: LotteryMethod, at: Search) -> dict[str, Any]:
    """Find a ticket in a trained network and set it back to an epoch of it (Algorithm 1).

    In the training of a ticket the next round is found: more blocks go from what that ticket kept,
    and the budget counts from the dense network. So rounds can have a training in between.
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
        noise=at.noise,
        **_how(method, seed),
    )
    at = replace(at, model=run.model, recipe=recipe)
    record = _searched(lambda costs: search(costs=costs), dense, method, at, run.bill(scored))
    return record | {"inputs": run.inputs(scored, theta_i.epoch)}


def find_control(method: ControlMethod, at: Search) -> dict[str, Any]:
    """Remove blocks without a criterion, at the cost of the reference."""
    wanted, seed, dense = _reference_of(at)

    def search() -> Ticket:
        return control_ticket(
            dense,
            wanted,
            method.control,
            draw=at.draw or 0,
            name=at.model,
            seed=seed,
        )

    found, cost = _saved(search, at, Bill(items={}))
    return _baseline_record("control", found, at) | cost


def find_filters(method: FiltersMethod, at: Search) -> dict[str, Any]:
    """Remove filters at initialization until the network is as small as the reference."""
    return _find_smaller(method, at, functools.partial(find_filter_ticket, match=method.match))


def find_weights(method: WeightsMethod, at: Search) -> dict[str, Any]:
    """Mask single weights at initialization until as many parameters are left as in the ticket."""
    rounds: dict[str, Any] = {} if method.rounds is None else {"rounds": method.rounds}
    return _find_smaller(method, at, functools.partial(find_weight_ticket, **rounds))


def _find_smaller(
    method: FiltersMethod | WeightsMethod, at: Search, search: Callable[..., Ticket]
) -> dict[str, Any]:
    """Score filters or weights at initialization, and take out as many as the reference asks."""
    wanted, seed, dense = _reference_of(at)
    random = {"draw": seed if at.draw is None else at.draw} if method.criterion == "random" else {}
    found, cost = _saved(
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
    """Play the original lottery: train, mask the smallest weights, rewind, in rounds.

    Round 1 scores the dense training; every round but the last then trains its masked network,
    which the next one scores. What was interrupted goes on when called again. Cost: the dense
    training and `rounds` - 1 of the masked network, each as dear, because masks save no time.
    """
    run = _Trained.of(at)
    if run.config["removed"] is not None:
        raise LayerticketError(
            f"{run.folder} trained a ticket; iterative pruning begins with the dense network. Give "
            "the run of the dense network."
        )
    train = at.train or functools.partial(_train_round, run, at)
    epochs, theta_i = run.recipe.epochs, run.theta(epoch_at(method.rewind, run.recipe.epochs))
    wanted, _, dense = _reference_of(replace(at, model=run.model, seed=run.seed))
    shares = shares_of(dense, wanted, method.rounds)
    bill, within, trained, rounds = run.bill(epochs), None, run.folder, list[Path]()
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
        within, cost, own = _priced(search, at)
        bill |= own
        if number < len(shares):
            trained = train(within.save(at.out / "rounds" / f"ticket-{number}"))
            result = Result.load(trained)
            bill |= Bill(items={trained.name: result.cost})
            inputs[trained.name] = {"end": result.weights}
            rounds.append(trained)
    assert within is not None  # there is at least one round
    within.save(at.out)
    write_json(at.out / BILL, bill.as_record())
    trainings = {"rounds": list(shares), "runs": [str(folder) for folder in rounds]}
    return _baseline_record("weights", within, at) | cost | trainings | {"inputs": inputs}


def _train_round(run: "_Trained", at: Search, ticket: Path) -> Path:
    """Train the ticket of a round beside the tickets of all rounds."""
    done = train_network(
        run.model,
        at.dataset,
        run.recipe,
        seed=run.seed,
        out=at.out / "rounds",
        ticket=ticket,
        validation_fraction=run.config["validation_fraction"],
        where=at.where,
    )
    return Path(done["run"])


def find_shallower(method: ShallowerMethod, at: Search) -> dict[str, Any]:
    """Look the shallower network up, or take the one that is named."""
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
    """Count the epochs of the dense network that cost what the ticket's training costs."""
    assert at.reference is not None
    reference = Ticket.load(at.reference)
    dense = reference.macs["dense"]
    epochs = equal_compute_epochs(reference, at.recipe.epochs)
    return {"epochs": epochs, "macs": {"dense": dense, "ticket": dense}}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Trained:
    """A finished training that is scored and gone back to."""

    folder: Path
    config: Mapping[str, Any]
    result: Result
    recipe: Recipe

    @classmethod
    def of(cls, at: Search) -> "_Trained":
        """Read what the training of a search was; refuse other data than its own."""
        assert at.dense is not None
        config = read_config(at.dense)
        if config["data_fingerprint"] != at.dataset.fingerprint:
            raise LayerticketError(
                f"{at.dense} was trained on data of fingerprint "
                f"{str(config['data_fingerprint'])[:12]}, the data given have "
                f"{at.dataset.fingerprint[:12]}. Give the data it was trained on."
            )
        return cls(
            folder=at.dense.resolve(),
            config=config,
            result=Result.load(at.dense),
            recipe=Recipe(**config["recipe"]),
        )

    @property
    def ticket(self) -> Ticket | None:
        """What the trained network had been cut down to; None: the dense network."""
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
        """Seed that drew theta_0; None if it was not drawn."""
        if "drawn" in self.config["start"]:
            return int(self.config["start"]["drawn"]["seed"])
        ticket = self.ticket
        return None if ticket is None else ticket.seed

    def theta(self, epoch: int) -> Snapshot:
        """Weights after so many epochs: the last, a snapshot, or the first."""
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
            optimizer = {} if ticket is None else ticket.optimizer
            weights = load_tensors(self.folder / FIRST)[0]
            return Snapshot(epoch=epoch, weights=weights, optimizer=optimizer)
        return load_snapshot(self.folder, epoch)

    def inputs(self, *epochs: int) -> dict[str, dict[str, str]]:
        """Digests of the weights at some epochs, which tell later whether they are still so."""
        parts = {"end" if e == self.recipe.epochs else str(e) for e in epochs}
        known = {"end": self.result.weights, **self.result.snapshots}
        return {self.folder.name: {part: known[part] for part in sorted(parts) if part in known}}

    def bill(self, epoch: int) -> Bill:
        """What it took up to an epoch, and what finding its own ticket took."""
        cost, start = self.result.cost, int(self.config["start_epoch"])
        if epoch < self.recipe.epochs:
            cost = cost.share(_share_of_time(self.folder, epoch - start, self.result))
        own = Bill(items={self.folder.name: cost})
        if self.ticket is None:
            return own
        return own | (Bill.of_ticket(Path(self.config["ticket"])) or Bill(items={}))


def _share_of_time(folder: Path, epochs: int, result: Result) -> float:
    """Share of the seconds of a training that its first epochs took."""
    known = curve_of(folder)[:epochs] if epochs > 0 else []
    seconds = known[-1]["train_seconds"] if known and known[-1] is not None else None
    return 0.0 if seconds is None else float(seconds) / result.train_seconds


def _ticket_of(run: Path, config: Mapping[str, Any]) -> Ticket | None:
    """Read the ticket that a training was of; it lies where it lay when the training began."""
    if config["removed"] is None:
        return None
    if config["removed"]["kind"] != "blocks":
        raise LayerticketError(
            f"{run} trained a network without some of its {config['removed']['kind']}; further "
            "rounds are found for blocks only."
        )
    folder = Path(config["ticket"] or "")
    try:
        found = Ticket.load(folder)
    except LayerticketError as err:
        raise LayerticketError(
            f"{run} trained the ticket in {folder}, which the next round goes on from: {err}"
        ) from err
    if sorted(found.removed) != config["removed"]["removed"]:
        raise LayerticketError(f"{folder} holds another ticket now than the one {run} trained.")
    return found


def _searched(
    search: Callable[[Any], Ticket],
    dense: nn.Module,
    method: TicketMethod | LotteryMethod,
    at: Search,
    before: Bill,
) -> dict[str, Any]:
    """Find a ticket of blocks for a budget, measured or counted; save it and say what it took."""
    budget, measured = at.budget, list[dict[str, Any]]()
    assert budget is not None

    def either() -> Ticket:
        if not budget.measured:
            return search(None)
        setup = replace(at.timing, granularity=method.granularity)
        ticket, record = find_measured(at.model, dense, budget, search, setup)
        measured.append(record)
        return ticket

    ticket, cost = _saved(either, at, before)
    predicted = None
    if at.forecast:
        models = {"dense": dense, "ticket": ticket.apply(dense)}
        predicted = forecast(models, at.timing, start=ticket.rewind_epoch)
    return (
        _ticket_record(ticket, at)
        | cost
        | {"measured": measured[0] if measured else None, "forecast": predicted}
    )


def _priced(search: Callable[[], Ticket], at: Search) -> tuple[Ticket, dict[str, Any], Bill]:
    """Find something, and say what that took by itself."""
    with metered(at.where) as (meter, method):
        begun = time.perf_counter()
        found = search()
        seconds = time.perf_counter() - begun
        kwh = None if meter is None else meter.lap().kwh
    co2 = carbon_kg(kwh, at.where.metering)
    # Two searches may find one ticket, and each of them was paid for.
    name = f"search-{digest([at.out.name, found.digest])[:16]}"
    bill = Bill(items={name: Cost(search_seconds=seconds, energy_kwh=kwh, co2_kg=co2)})
    spent = {
        "search_seconds": seconds,
        "search_energy_kwh": kwh,
        "search_co2_kg": co2,
        "energy_method": method,
    }
    return found, spent, bill


def _saved(search: Callable[[], Ticket], at: Search, before: Bill) -> tuple[Ticket, dict[str, Any]]:
    """Find something, and save it with the bill of all that finding it took."""
    found, spent, bill = _priced(search, at)
    found.save(at.out)
    write_json(at.out / BILL, (before | bill).as_record())
    return found, spent


def _reference_of(at: Search) -> tuple[Ticket, int, nn.Module]:
    """The reference, the seed, and the dense network that both are found in.

    Another theta_0 than that of the reference is refused. A reference that was found in a training
    was scored in weights of that training, which say nothing about theta_0; that another
    architecture is refused is left to the search.
    """
    assert at.reference is not None
    reference = Ticket.load(at.reference)
    seed = reference.seed if at.seed is None else at.seed
    if seed is None:
        raise LayerticketError(
            f"the reference, a ticket of {reference.model!r}, does not say by which seed its "
            "weights were drawn. Give the seed."
        )
    dense = at.networks.build(at.model, seed)
    comparable = reference.origin is None and architecture_digest(dense) == reference.architecture
    if comparable and weights_digest(dense) != reference.weights:
        raise LayerticketError(
            f"{at.model!r} at seed {seed} has other weights than the reference was found in (seed "
            f"{reference.seed}), and a baseline starts from the same theta_0. Leave the seed out, "
            "or give a ticket found in this network with this version of torch."
        )
    return reference, seed, dense


def _how(method: TicketMethod | LotteryMethod, seed: int) -> dict[str, Any]:
    """Options of `find_ticket`; `random` draws by the seed unless `draw` is given."""
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
    """What `layerticket find --json` prints about a ticket of blocks."""
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
    """What `layerticket find --json` prints about a baseline or control."""
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
