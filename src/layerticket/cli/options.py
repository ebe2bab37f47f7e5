"""Options several verbs share, each written once."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from layerticket.data import DATASETS, Dataset, load_data

__all__ = ["DataChoice", "DeviceChoice", "Json", "command_line"]

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

    def load(self) -> Dataset:
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


def command_line() -> str:
    """Return the command this process was started with, as one would type it."""
    return shlex.join(["layerticket", *sys.argv[1:]])
