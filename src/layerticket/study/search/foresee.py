"""The forecast of a run by name. Enters: what a person types. Leaves: JSON values, no files."""

from pathlib import Path
from typing import Any

from layerticket.rivals import load_candidate
from layerticket.study.runs.train import build_named
from layerticket.study.search.forecast import forecast
from layerticket.study.search.measuring import Bench

__all__ = ["foresee_run"]


def foresee_run(
    model: str, *, seed: int, bench: Bench, ticket: Path | None = None
) -> dict[str, Any]:
    """Forecast the training that `train_run` would do, without doing it.

    Args:
        model: Name of the dense network.
        seed: As in `train_run`.
        bench: What would be trained on, and how; how many rounds are measured.
        ticket: Folder of a ticket; forecast beside the dense network.

    Returns:
        What `layerticket train --dry-run --json` prints.

    Raises:
        LayerticketError: If anything given does not fit.
    """
    models = {"dense": build_named(model, bench.dataset, seed)}
    start = 0
    if ticket is not None:
        found = load_candidate(ticket)
        models["ticket"], start = found.apply(models["dense"]), found.rewind_epoch
    names = {"model": model, "ticket_folder": None if ticket is None else str(ticket)}
    return names | forecast(models, bench, start=start)
