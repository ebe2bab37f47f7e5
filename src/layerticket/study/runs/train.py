"""The step of a study by name: train a run.

What enters is what a person types or a study file holds: names, folders, a recipe, a seed. What
leaves is JSON values, as the command line prints them.
"""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from torch import nn

from layerticket.data import Dataset
from layerticket.errors import LayerticketError
from layerticket.evaluation import Metering
from layerticket.models import build_model
from layerticket.rivals import Candidate, load_candidate
from layerticket.study.runs.bill import SearchBill
from layerticket.study.runs.record import RUN
from layerticket.study.runs.run import RunConfig, execute
from layerticket.training import Recipe, Spread, Start, Tracking, epochs_at, processes

__all__ = ["TICKET", "build_named", "run_folder", "train_run"]

TICKET = "ticket"


def build_named(model: str, dataset: Dataset, seed: int) -> nn.Module:
    """Build a network by name for the classes and channels of a data set."""
    channels = dataset.train.images.shape[1]
    return build_model(model, classes=dataset.classes, channels=channels, seed=seed)


def train_run(
    model: str,
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    out: Path,
    ticket: Path | None = None,
    initialization: Literal["ticket", "seed"] = "ticket",
    initialization_seed: int | None = None,
    keep: str | Iterable[str | int] = (),
    validation_fraction: float = 0.1,
    device: str = "auto",
    progress: bool = True,
    command: str = "",
    metering: Metering | None = None,
    spread: Spread = Spread(),  # noqa: B008 - frozen
    tracking: Tracking = Tracking(),  # noqa: B008 - frozen
) -> dict[str, Any]:
    """Train a dense network, a ticket or a rival of one as a run of its own folder in `out`.

    Args:
        model: Name of the dense network.
        dataset: What to train, validate and test on.
        recipe: How to train.
        seed: Decides theta_0 of a dense network, order and augmentation of the images.
        out: Folder of all runs.
        ticket: Folder of a ticket, of layers or a rival, to train instead of the dense network.
        initialization: Where a ticket's first weights come from: `ticket`: its own theta_0, or
            theta_i, from where training goes on along the schedule; `seed`: random weights, trained
            for all epochs (Liu et al., "Rethinking the Value of Network Pruning", ICLR 2019).
        initialization_seed: Draws those random weights; None: `seed`.
        keep: Epochs whose weights and optimizer are kept, see `layerticket.training.epochs_at`.
        validation_fraction: Share `dataset` was loaded with; part of the run's identity.
        device: "auto", "cpu", "cuda" or "cuda:N".
        progress: Whether a progress bar is drawn on stderr.
        command: Command line to be noted in the run.
        metering: What the user states about energy; by default it is not metered.
        spread: Choices for a training in several processes.
        tracking: Trackers that curves are sent to.

    Returns:
        What `layerticket train --json` prints.

    Raises:
        LayerticketError: If anything given does not fit.
        TrainingError: If training fails.
    """
    found = None if ticket is None else load_candidate(ticket)
    drawn = seed if initialization_seed is None else initialization_seed
    source: Literal["ticket", "model"] = "ticket" if initialization == "ticket" else "model"
    start = _start(found, recipe, initialization, initialization_seed, drawn)
    config = RunConfig(
        model=model,
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        validation_fraction=validation_fraction,
        ticket="" if found is None else found.digest,
        initialization=_source(found, initialization, drawn, seed),
        start_epoch=start.epoch,
        recipe=recipe,
        seed=seed,
    )

    return execute(
        config,
        dataset=dataset,
        build=lambda: _first(model, dataset, drawn, found, source, Path(out) / config.name, device),
        out=out,
        start=start,
        keep_epochs=epochs_at(keep, recipe.epochs),
        device=device,
        progress=progress,
        command=command,
        metering=metering,
        search=SearchBill.of(ticket),
        spread=spread,
        tracking=tracking,
    )


def _first(
    model: str,
    dataset: Dataset,
    seed: int,
    found: Candidate | None,
    source: Literal["ticket", "model"],
    folder: Path,
    device: str,
) -> nn.Module:
    """Build the network to train; its ticket is left in the folder of the run."""
    dense = build_named(model, dataset, seed)
    if found is None:
        return dense
    with processes(device) as team:
        team.first(lambda: found.save(folder / TICKET))  # so that the run explains itself
    return found.apply(dense, initialization=source)


def _source(found: Candidate | None, initialization: str, drawn: int, seed: int) -> str:
    """Spell where the first weights come from, as `RunConfig` wants it."""
    if found is not None and initialization == "ticket":
        return "ticket"
    return "seed" if drawn == seed else f"seed {drawn}"


def _start(
    found: Candidate | None, recipe: Recipe, initialization: str, given: int | None, drawn: int
) -> Start:
    """Where training begins; refuses weights that are not new, and another schedule."""
    if found is None:
        return Start()
    if initialization == "seed":
        if drawn == found.seed:
            raise LayerticketError(
                f"seed {drawn} drew the ticket's own theta_0, so these weights would not be new. "
                f"Draw others: --init-seed {drawn + 1}."
            )
        return Start()
    if given is not None:
        raise LayerticketError(
            "an initialization seed is given, but the ticket starts at its own weights. "
            "Add --initialization seed to draw new ones, or leave the seed out."
        )
    if found.origin and found.rewind_epoch and dict(found.origin.recipe) != asdict(recipe):
        names = [n for n, value in asdict(recipe).items() if found.origin.recipe.get(n) != value]
        raise LayerticketError(
            f"the ticket goes on from epoch {found.rewind_epoch} of {found.origin.run}, whose "
            f"recipe has {names[0]} {found.origin.recipe.get(names[0])!r}; given is "
            f"{asdict(recipe)[names[0]]!r}. Give the recipe of that run."
        )
    return Start(epoch=found.rewind_epoch, optimizer=found.optimizer)


def run_folder(path: Path) -> Path:
    """Return the run in a folder: the folder itself, or the only run inside it.

    Raises:
        LayerticketError: If there is no run, or more than one to choose from.
    """
    if (path / RUN).exists():
        return path
    inside = sorted(folder.parent for folder in path.glob(f"*/{RUN}"))
    if len(inside) == 1:
        return inside[0]
    if inside:
        names = ", ".join(folder.name for folder in inside)
        raise LayerticketError(f"{path} holds {len(inside)} runs; name one of them: {names}.")
    raise LayerticketError(f"{path} is not a run; `layerticket train` makes runs and prints them.")
