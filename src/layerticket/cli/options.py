"""Options several verbs share, each written once."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from pydantic import AfterValidator

from layerticket.data.sources import DATASETS, load_data
from layerticket.errors import LayerticketError
from layerticket.evaluation.robustness import Attack, Conditions
from layerticket.files import check_folder
from layerticket.selection import Budget
from layerticket.settings import DeviceName, Flag, Share, Text, settings
from layerticket.study.methods import Rules
from layerticket.study.running.executors import Workers
from layerticket.training.device import Metering
from layerticket.training.distributed import DistributedOptions
from layerticket.training.recipe import Recipe
from layerticket.training.trackers import Trackers

if TYPE_CHECKING:
    from layerticket.data.dataset import Dataset

Json = Annotated[
    bool, Parameter(name="--json", negative=(), help="Print one JSON object on stdout.")
]


Device = Annotated[DeviceName, Parameter(help="auto, cpu, cuda or cuda:N.")]
Folder = Annotated[Path, AfterValidator(check_folder)]
"""Where something is written: a folder that is there, or can be made."""


@Parameter(name="*", group="Data")
@settings
class DataOptions:
    """Which images to work on."""

    data: Annotated[Text, Parameter(help=f"Data set: {', '.join(DATASETS)}.")] = "digits"
    data_dir: Path | None = None
    """Folder with the CIFAR files (parquet or the original python batches)."""
    validation_fraction: Share = 0.1
    """Share of the training images set aside for every choice; the test set is for the end."""
    download: Annotated[Flag, Parameter(negative=())] = False
    """Fetch missing CIFAR files from their authors' site."""

    def load(self) -> "Dataset":
        """Load the images."""
        return load_data(
            self.data,
            data_dir=self.data_dir,
            validation_fraction=self.validation_fraction,
            download=self.download,
        )


_GROUPS: Mapping[str, tuple[type, ...]] = {
    "How much": (Budget,),
    "What stays": (Rules,),
    "Evaluation": (Conditions, Attack),
    "Training": (Recipe,),
    "Energy": (Metering,),
    "Workers": (Workers,),
    "Several processes": (DistributedOptions,),
    "Curves": (Trackers,),
}
for _group, _classes in _GROUPS.items():
    for _class in _classes:  # their fields are options of the verb: --steps, not --attack.steps
        Parameter(name="*", group=_group)(_class)


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


def command_line() -> str:
    """Return the command this process was started with, as one would type it."""
    return shlex.join(["layerticket", *sys.argv[1:]])
