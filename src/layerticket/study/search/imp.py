"""Iterative magnitude pruning by name: its rounds are runs, like any other training."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from layerticket.data import Dataset
from layerticket.errors import LayerticketError
from layerticket.evaluation import Metering
from layerticket.files import read_json
from layerticket.rivals.weights.iterative import next_weight_ticket, shares_of
from layerticket.rivals.weights.record import WeightTicket
from layerticket.study.runs.bill import SearchBill
from layerticket.study.runs.record import RUN, WEIGHTS, load_result
from layerticket.study.runs.train import train_run
from layerticket.study.search.beside import dense_beside
from layerticket.study.search.rivals import told_rival
from layerticket.study.search.search import priced
from layerticket.tensors import load_tensors
from layerticket.ticket import Ticket
from layerticket.training import Kept, Recipe, epoch_at, load_kept

__all__ = ["find_imp"]

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
            `next_weight_ticket`.
    """
    config = _dense(run, dataset, recipe)
    theta_i = load_kept(run, epoch_at(rewind, recipe.epochs))
    wanted = Ticket.load(reference)
    dense = dense_beside(wanted, config["model"], dataset, config["seed"])
    images = dataset.train.images
    step = functools.partial(
        next_weight_ticket,
        dense,
        torch.zeros(1, *images.shape[1:]),
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
    step: Callable[..., WeightTicket],
    train: Callable[..., dict[str, Any]],
    price: Callable[..., tuple[WeightTicket, SearchBill, dict[str, Any]]],
    folder: Path,
) -> tuple[WeightTicket, SearchBill, dict[str, Any], list[str]]:
    """Mask and train in turns, the last mask untrained; what each training took is on the bill."""
    bill, within, runs = _paid(run), None, [run]
    for number, share in enumerate(shares, start=1):
        trained = Kept(epoch=epochs, weights=load_tensors(runs[-1] / WEIGHTS)[0], optimizer={})
        name = runs[-1].resolve().name
        find = functools.partial(step, trained=trained, within=within, share=share, run=name)
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
