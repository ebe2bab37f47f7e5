"""The steps of a study by name: find a ticket, train a run.

What enters is what a person types or a study file holds: names, folders, a recipe, a seed. What
leaves is JSON values, as the command line prints them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import nn

from layerticket.data import Dataset, scoring_batch
from layerticket.errors import LayerticketError
from layerticket.models import build_model
from layerticket.selection import Budget
from layerticket.study.record import RUN
from layerticket.study.run import RunConfig, execute
from layerticket.ticket import Ticket, find_ticket
from layerticket.training import Recipe

__all__ = ["TICKET", "build_named", "find_in", "run_folder", "train_run"]

TICKET = "ticket"


def find_in(
    model: str,
    dataset: Dataset,
    *,
    budget: Budget,
    seed: int,
    out: Path,
    criterion: str = "grasp",
    images: int | None = None,
    balanced: bool = True,
    rules: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Find a ticket in a network of a name at its initialization by `seed`, and save it.

    Args:
        model: See `layerticket.models.build_model`.
        dataset: Images to score on come from its training split.
        budget: How much is to go.
        seed: Decides theta_0, the scoring batch and the draw of criterion `random`.
        out: Folder of the ticket.
        criterion: A registered name.
        images: Size of the scoring batch; None: ten of every class, as GraSP's authors take.
        balanced: Whether every class appears equally often.
        rules: `protect`, `min_per_stage` and `keep_neighbours` of `select`.
        options: The criterion's own options.

    Returns:
        What `layerticket find --json` prints.

    Raises:
        LayerticketError: As `find_ticket` does.
    """
    dense = build_named(model, dataset, seed)
    count = 10 * dataset.classes if images is None else images
    batch = scoring_batch(dataset, dataset.train, count, seed=seed, balanced=balanced)
    given = dict(options or {})
    if criterion == "random":
        given.setdefault("draw", seed)
    ticket = find_ticket(
        dense,
        batch,
        criterion=criterion,
        budget=budget,
        name=model,
        seed=seed,
        **(rules or {}),
        **given,
    )
    ticket.save(out)
    return {
        "ticket": str(out),
        "criterion": ticket.criterion,
        "removed": list(ticket.removed),
        "kept": list(ticket.kept),
        "scores": dict(ticket.scores),
        "macs": dict(ticket.macs),
        "params": dict(ticket.params),
        "score_seconds": ticket.score_seconds,
    }


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
    validation_fraction: float = 0.1,
    device: str = "auto",
    progress: bool = True,
    command: str = "",
) -> dict[str, Any]:
    """Train a dense network or a ticket as a run of its own folder in `out`.

    Args:
        model: Name of the dense network.
        dataset: What to train, validate and test on.
        recipe: How to train.
        seed: Decides theta_0 of a dense network, order and augmentation of the images.
        out: Folder of all runs.
        ticket: Folder of a ticket to train instead of the dense network.
        initialization: Where a ticket's first weights come from: its own theta_0, or `seed`.
        validation_fraction: Share `dataset` was loaded with; part of the run's identity.
        device: "auto", "cpu", "cuda" or "cuda:N".
        progress: Whether a progress bar is drawn on stderr.
        command: Command line to be noted in the run.

    Returns:
        What `layerticket train --json` prints.

    Raises:
        LayerticketError: If anything given does not fit.
        TrainingError: If training fails.
    """
    found = None if ticket is None else Ticket.load(ticket)
    config = RunConfig(
        model=model,
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        validation_fraction=validation_fraction,
        ticket="" if found is None else found.digest,
        initialization="seed" if found is None else initialization,
        recipe=recipe,
        seed=seed,
    )

    def build() -> nn.Module:
        dense = build_named(model, dataset, seed)
        if found is None:
            return dense
        found.save(Path(out) / config.name / TICKET)  # so that the run explains itself
        return found.apply(
            dense, initialization="ticket" if initialization == "ticket" else "model"
        )

    return execute(
        config,
        dataset=dataset,
        build=build,
        out=out,
        device=device,
        progress=progress,
        command=command,
    )


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
