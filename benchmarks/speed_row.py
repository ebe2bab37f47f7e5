"""A row of the table of speeds: what is measured, the baseline, and the target."""

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from layerticket.evaluation.timing import interleave


@dataclass(frozen=True, kw_only=True)
class Row:
    """A figure to measure."""

    name: str
    """Name of the row; ``ROWS=grasp`` also runs grasp-vit."""
    what: str
    """What is measured."""
    against: str
    """Baseline that the figure is divided by; empty if it is not a ratio."""
    measure: Callable[[int], Iterable[float]]
    """Measures a given number of rounds, and returns one figure for each."""
    rounds: int = 9
    most: float | None = None
    """Target: the figure is at most this."""
    least: float | None = None
    """Target: the figure is at least this."""
    unit: str = ""
    """Unit of a figure that is not a ratio."""
    gpu: bool = False
    """Whether it needs a GPU."""
    packages: tuple[str, ...] = ()
    """Optional packages that it needs."""
    limit: str = ""
    """Why the figure does not reach its target, if it does not."""
    note: str = ""
    """What a reader must know about the figure."""
    times: Callable[[], float] | str = ""
    """Makes an absolute figure of a ratio: a factor, or the name of the row it is multiplied by."""

    @property
    def target(self) -> str:
        """The target as text."""
        if self.most is None and self.least is None:
            return "-"
        sign, bound = ("<=", self.most) if self.least is None else (">=", self.least)
        return f"{sign} {bound:g}{self.unit and ' '}{self.unit}"

    def reached(self, value: float) -> bool | None:
        """Whether a figure meets the target; None without a target."""
        if self.most is None and self.least is None:
            return None
        return (self.most is None or value <= self.most) and (
            self.least is None or value >= self.least
        )

    def obstacle(self) -> str:
        """Return why the row cannot be run here; empty if it can."""
        if self.gpu and not torch.cuda.is_available():
            return "needs a GPU that PyTorch can use"
        if not self.gpu and torch.cuda.is_available():
            return "is a figure of CPUs; hide the GPUs: CUDA_VISIBLE_DEVICES="
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        return f"needs the package {missing[0]}" if missing else ""


NO_WAIT = (
    "Steps train on one batch, which is fetched before they are timed, so no time is spent waiting "
    "for data and its share is not recorded. [Table 4](table4.md) has that share with a batch per "
    "step."
)


def in_turns(
    above: Callable[[], object], below: Callable[[], object], rounds: int, *, warmup: int = 1
) -> list[float]:
    """Time two sides in turns and divide the times of each round."""
    seconds = interleave({"above": above, "below": below}, rounds=rounds, warmup=warmup)
    return [a / b for a, b in zip(seconds["above"], seconds["below"], strict=True)]
