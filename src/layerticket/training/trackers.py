"""Send the curves of a training to TensorBoard, MLflow or Weights & Biases.

Trackers do not change a training and are not part of its identity.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from layerticket.errors import LayerticketError, need, unknown_name
from layerticket.settings import Text, settings

Figures = Mapping[str, float | None]
_PROJECT = "layerticket"


@settings
class Trackers:
    """Trackers that receive the curves of a training.

    Raises:
        LayerticketError: If a tracker is not known, or its package is not installed.
    """

    track: tuple[Text, ...] = ()
    """Trackers to log to: tensorboard, mlflow, wandb; by default none."""
    track_dir: Path | None = None
    """Folder with one folder per run; by default `tracking` in the run's folder."""

    def __post_init__(self) -> None:
        for name in self.track:
            if name not in TRACKERS:
                raise unknown_name("tracker", name, TRACKERS)
            if find_spec(name) is None:
                raise LayerticketError(
                    f"tracker {name!r} needs a package that is not installed: {TRACKERS[name]}"
                )
        if self.track_dir is not None and not self.track:
            raise LayerticketError(
                f"a folder for trackers is given ({self.track_dir}), but no tracker. Add one of "
                f"{', '.join(TRACKERS)}, or leave the folder out."
            )

    @contextmanager
    def open(self, run: Path, facts: Mapping[str, Any]) -> Iterator[Callable[[Figures, int], None]]:
        """Open the trackers, and close them at the end, also on errors.

        Args:
            run: Folder of the run; its name is the name of the run.
            facts: Settings of the training; nested mappings are flattened.

        Yields:
            A function of metrics and their epoch; metrics that are None are left out.
        """
        home = run / "tracking" if self.track_dir is None else self.track_dir / run.name
        with ExitStack() as stack:
            logs = []
            for name in self.track:
                home.mkdir(parents=True, exist_ok=True)
                logs.append(stack.enter_context(_OPEN[name](home, run.name, _flat(facts))))

            def log(figures: Figures, epoch: int) -> None:
                known = {name: value for name, value in figures.items() if value is not None}
                for one in logs:
                    one(known, epoch)

            yield log


Log = Callable[[Mapping[str, float], int], None]


@contextmanager
def _tensorboard(home: Path, run: str, facts: dict[str, Any]) -> Iterator[Log]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(home / _PROJECT) as writer:
        writer.add_text("settings", "\n".join(f"    {name}: {facts[name]}" for name in facts))

        def log(figures: Mapping[str, float], epoch: int) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, global_step=epoch)
            writer.flush()

        yield log


@contextmanager
def _mlflow(home: Path, run: str, facts: dict[str, Any]) -> Iterator[Log]:
    mlflow = need("mlflow")

    mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT))
    with mlflow.start_run(run_name=run):
        mlflow.log_params({name: json.dumps(value)[:500] for name, value in facts.items()})
        yield lambda figures, epoch: mlflow.log_metrics(dict(figures), step=epoch)


@contextmanager
def _wandb(home: Path, run: str, facts: dict[str, Any]) -> Iterator[Log]:
    wandb = need("wandb")

    with wandb.init(project=_PROJECT, name=run, dir=str(home), config=facts) as opened:
        yield lambda figures, epoch: opened.log(dict(figures), step=epoch)


_OPEN = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}
TRACKERS = {
    "tensorboard": 'pip install "layerticket[tensorboard]"',
    "mlflow": "pip install mlflow",
    "wandb": "pip install wandb",
}
"""How to install each tracker, by import name."""


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested mappings: {"a": {"b": 1}} becomes {"a/b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{key}": inner for key, inner in _flat(value).items()}
        else:
            flat[name] = value
    return flat
