"""Find a ticket by name: in a network at initialization, or in a run that trained one.

What enters is what a person types or a study file holds. What leaves is a ticket's folder, and
JSON values, as the command line prints them.
"""

import functools
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from layerticket.blocks import Granularity
from layerticket.data import Dataset
from layerticket.errors import LayerticketError
from layerticket.files import read_json
from layerticket.lottery import draw_batch, find_in_training, rewind
from layerticket.selection import Budget
from layerticket.study.runs.bill import SearchBill
from layerticket.study.runs.record import RUN, WEIGHTS, load_result
from layerticket.study.runs.train import TICKET, build_named
from layerticket.study.search.forecast import forecast
from layerticket.study.search.measuring import Bench
from layerticket.study.search.search import search
from layerticket.tensors import load_tensors
from layerticket.ticket import Ticket, find_ticket
from layerticket.training import Kept, Recipe, epoch_at, load_kept

__all__ = ["find_in", "find_in_run"]


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
        model: See `layerticket.models.build_model`.
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

    def set_back(*, costs: Any = None) -> Ticket:  # noqa: ANN401 - as find_ticket has it
        return rewind(find(costs=costs), theta_i)

    ticket, bill = search(set_back, config["model"], dense, budget, bench, out, before=paid)
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
