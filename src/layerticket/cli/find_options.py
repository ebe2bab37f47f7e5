"""The groups of options `layerticket find` has to itself."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from layerticket.cli.options import EnergyChoice, bytes_of
from layerticket.data import Dataset
from layerticket.selection import Budget
from layerticket.study import Bench
from layerticket.training import Recipe

__all__ = ["Goal", "Measuring", "Rules", "Scoring", "Training"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """How much is to go: one of these."""

    remove: int | None = None
    """Number of blocks to remove."""
    save_macs: float | None = None
    """Share of the multiply-accumulates to save at least, 0 to 1."""
    save_params: float | None = None
    """Share of the parameters to save at least, 0 to 1."""
    save_time: float | None = None
    """Share of the measured time of a training step to save at least, 0 to 1."""
    save_energy: float | None = None
    """Share of the metered energy of a training step to save at least, 0 to 1."""
    max_memory: str | None = None
    """Most memory training may take at its measured peak: bytes, or as in 2GiB."""

    def budget(self) -> Budget:
        """Hand over what was given."""
        return Budget(**asdict(self) | {"max_memory": bytes_of(self.max_memory)})


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Measuring:
    """What is measured on, for a measured budget and for a forecast."""

    batch_size: int = 128
    """Images a training step."""
    forecast_epochs: int | None = None
    """Forecast time, energy and carbon of this many epochs of training."""
    timing_rounds: int = 7
    """Rounds of steps that are timed, dense network and ticket in turns."""

    def bench(self, dataset: Dataset, energy: EnergyChoice, device: str) -> Bench:
        """Put together what is measured on."""
        return Bench(
            dataset=dataset,
            recipe=Recipe(epochs=self.forecast_epochs or 200, batch_size=self.batch_size),
            device=device,
            rounds=self.timing_rounds,
            metering=energy.metering(),
        )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """How blocks are scored; what is not given is as in the criterion's paper."""

    reduction: Literal["sum", "mean"] | None = None
    """Block score: sum (default) or mean over the block's weights."""
    normalization: Literal["batch", "running"] | None = None
    """Batch norm by the statistics of the batch (default) or the running averages."""
    temperature: float | None = None
    """Divides the logits in the loss; by default 200 for grasp, 1 for snip."""
    micro_batches: int | None = None
    """Parts the scoring batch is processed in, to bound memory."""
    hessian: Literal["auto", "shortcut", "exact"] | None = None
    """GraSP through the shortcut where it holds (auto, default), or as said."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """Which blocks must stay."""

    protect: tuple[str, ...] = ()
    """Patterns of blocks that must stay, e.g. "layer1.*"."""
    min_per_stage: int = 0
    """Removable blocks that must remain in every stage."""
    keep_neighbours: Annotated[bool, Parameter(negative=())] = False
    """Keep the blocks next to each down-sampling, as the paper's implementation does."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Find the ticket in a trained network and set it back (Algorithm 1)."""

    run: Path | None = None
    """Run that trained the network, with --keep; gives model, data and theta_0."""
    rewind: str | None = None
    """Epoch i the kept weights are set back to, or a share such as 25%; by default 0."""
    score_epoch: str | None = None
    """Epoch whose weights are scored, for early tickets; by default the last."""
