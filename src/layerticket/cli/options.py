"""Options several verbs share, each written once."""

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from layerticket.data.sources import DATASETS, load_data
from layerticket.errors import LayerticketError
from layerticket.evaluation.energy import Metering
from layerticket.evaluation.robustness import Attack, Conditions
from layerticket.selection import Budget
from layerticket.study.running.workers import Workers

if TYPE_CHECKING:
    from layerticket.data.dataset import Dataset

Json = Annotated[
    bool, Parameter(name="--json", negative=(), help="Print one JSON object on stdout.")
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class DataChoice:
    """Which images to work on."""

    data: Annotated[str, Parameter(help=f"Data set: {', '.join(DATASETS)}.")] = "digits"
    data_dir: Path | None = None
    """Folder with the CIFAR files (parquet or the original python batches)."""
    validation_fraction: float = 0.1
    """Share of the training images set aside for every choice; the test set is for the end."""
    download: Annotated[bool, Parameter(negative=())] = False
    """Fetch missing CIFAR files from their authors' site."""

    def load(self) -> "Dataset":
        """Load the images."""
        return load_data(
            self.data,
            data_dir=self.data_dir,
            validation_fraction=self.validation_fraction,
            download=self.download,
        )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceChoice:
    """Where to compute."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


for _settings in (Attack, Budget, Conditions, Metering, Workers):
    Parameter(name="*")(_settings)  # their fields are options of the verb, not --attack.steps


def alone(what: str) -> None:
    """Refuse several processes for what one process does.

    Raises:
        LayerticketError: If a launcher started several.
    """
    from layerticket.training.distributed import launched

    if (count := launched()) > 1:
        raise LayerticketError(
            f"`{what}` is the work of one process, but {count} were started. Run it without "
            "torchrun or accelerate launch; only `train` is spread over processes."
        )


def bytes_of(text: str | None) -> int | None:
    """Read a number of bytes, plain or with a unit: 500000000, 2GiB, 900MB.

    Raises:
        LayerticketError: If it is something else.

    Example:
        >>> bytes_of("1.5KiB")
        1536
    """
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *(?:([kKMGT]?)(i?)B)?", text.strip())
    if not found:
        raise LayerticketError(
            f"{text!r} is no amount of memory. Give bytes, or a number with kB, MB, GB, KiB, MiB "
            "or GiB."
        )
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index((prefix or " ").upper()))


def command_line() -> str:
    """Return the command this process was started with, as one would type it."""
    return shlex.join(["layerticket", *sys.argv[1:]])
