"""Curves of a training for TensorBoard, MLflow or Weights & Biases, through Accelerate's trackers.

Enters: which ones, where to, and figures after each epoch. Leaves: what those write. Changes
nothing in a training and is no part of its identity. Refuses to know what is tracked.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from layerticket.errors import LayerticketError, unknown_name

TRACKERS = {
    "tensorboard": 'pip install "layerticket[tensorboard]"',
    "mlflow": "pip install mlflow",
    "wandb": "pip install wandb",
}
"""Name of the package as it is imported, and how to get it."""

_PROJECT = "layerticket"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracking:
    """Where the curves of a training are sent.

    Raises:
        LayerticketError: If a tracker is not known, or its package is not installed.
    """

    trackers: tuple[str, ...] = ()
    """Some of `TRACKERS`; none: nothing is sent."""
    folder: Path | None = None
    """Folder in which each run gets one of its own; None: ``tracking`` in the run's folder."""

    def __post_init__(self) -> None:
        for name in self.trackers:
            if name not in TRACKERS:
                raise unknown_name("tracker", name, TRACKERS)
            if find_spec(name) is None:
                raise LayerticketError(
                    f"tracker {name!r} needs a package that is not installed: {TRACKERS[name]}"
                )
        if self.folder is not None and not self.trackers:
            raise LayerticketError(
                f"a folder for trackers is given ({self.folder}), but no tracker. Choose from "
                f"{', '.join(TRACKERS)}, or leave the folder out."
            )

    def options(self, run: Path) -> dict[str, Any]:
        """Return what an Accelerator has to be told to track the run in a folder."""
        if not self.trackers:
            return {}
        return {"log_with": list(self.trackers), "project_dir": str(self._home(run))}

    def _home(self, run: Path) -> Path:
        return run / "tracking" if self.folder is None else self.folder / run.name


@contextmanager
def tracked(
    accelerator: Accelerator, tracking: Tracking, run: Path, facts: Mapping[str, Any]
) -> Iterator[Callable[[Mapping[str, float | None], int], None]]:
    """Open the trackers of process 0, and close them at the end, also on errors.

    Args:
        accelerator: Made with `Tracking.options`.
        tracking: Which trackers, where to.
        run: Folder of the run; its name is the name of the run.
        facts: Settings of the training; mappings within are flattened.

    Yields:
        A function of figures and the epoch they belong to; figures that are None are left out.
    """
    if not tracking.trackers or not accelerator.is_main_process:
        yield lambda figures, epoch: None
        return
    home = tracking._home(run)
    home.mkdir(parents=True, exist_ok=True)
    accelerator.init_trackers(
        _PROJECT,
        config=_flat(facts),
        init_kwargs={
            "mlflow": {"run_name": run.name},
            "wandb": {"name": run.name, "dir": str(home)},
        },
    )

    def log(figures: Mapping[str, float | None], epoch: int) -> None:
        known = {name: value for name, value in figures.items() if value is not None}
        for tracker in accelerator.trackers:
            tracker.log(known, step=epoch)

    try:
        yield log
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Lay mappings within a mapping open: {"a": {"b": 1}} becomes {"a/b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{key}": inner for key, inner in _flat(value).items()}
        else:
            flat[name] = value
    return flat
