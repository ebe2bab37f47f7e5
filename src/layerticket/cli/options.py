"""Options that several verbs share."""

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter
from pydantic import AfterValidator

from layerticket.data.sources import DATASETS, SHAPES, Reading, data_name, load_data
from layerticket.errors import LayerticketError, ModelError
from layerticket.evaluation.robustness import Attack, Conditions
from layerticket.files import check_folder
from layerticket.selection import Budget
from layerticket.settings import (
    DeviceName,
    Flag,
    Many,
    Range,
    Shape,
    Share,
    Size,
    Text,
    settings,
)
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
"""A folder to write to: it exists, or can be created."""


IN_ORDER = (
    "How much",
    "Data",
    "Training",
    "What stays",
    "Scoring",
    "In a trained network",
    "Baselines",
    "Evaluation",
    "Measuring",
    "Workers",
    "Energy",
    "Curves",
    "Several processes",
)
"""Groups of options as help shows them: what most commands need comes first."""


def group(name: str) -> Group:
    """Return the group of options with this name, at its place in the help."""
    return Group(name, sort_key=IN_ORDER.index(name))


_DATA = f"Images: {', '.join(DATASETS)}; by default digits."
_INPUT = (
    f"Images: {', '.join(DATASETS)}. By default inputs of the shape that the network states; if it "
    "states none, digits (find) or 3,32,32 (blocks)."
)


@Parameter(name="*", group=group("Data"))
@settings
class DataOptions:
    """Images to work on."""

    data: Annotated[Text | None, Parameter(help=_DATA)] = None
    data_dir: Path | None = None
    """Folder with the CIFAR files (parquet or the original python batches)."""
    validation_fraction: Share = 0.1
    """Share of the training images used for validation; the test set is used only at the end."""
    download: Annotated[Flag, Parameter(negative=())] = False
    """Download missing CIFAR files from their authors' site."""
    image_size: Size | None = None
    """Height and width that all images are resized to: 64 or 64,48."""
    value_range: Range | None = None
    """Pixel values of black and white, for images of 16 bits: 0,4095."""
    reading: Reading = Reading()
    """How images are read."""

    def __post_init__(self) -> None:
        if self.data is not None:  # refused at once if it is unknown
            object.__setattr__(self, "data", data_name(self.data))

    @property
    def source(self) -> str:
        """Name of the images."""
        return self.data or "digits"

    @property
    def words(self) -> str:
        """Options that name these images on a command line."""
        size = "" if self.image_size is None else "{},{}".format(*self.image_size)
        values = "" if self.value_range is None else "{},{}".format(*self.value_range)
        named = {"--data-dir": self.data_dir, "--image-size": size, "--value-range": values}
        rest = [str(word) for pair in named.items() if pair[1] for word in pair]
        return shlex.join(["--data", self.source, *rest])

    def load(self) -> "Dataset":
        """Load the images."""
        return load_data(
            self.source,
            data_dir=self.data_dir,
            validation_fraction=self.validation_fraction,
            download=self.download,
            image_size=self.image_size,
            value_range=self.value_range,
            reading=self.reading,
        )


@Parameter(name="*", group=group("Data"))
@settings
class InputOptions(DataOptions):
    """Which images to work on, or what a network takes where there are none."""

    data: Annotated[Text | None, Parameter(help=_INPUT)] = None
    input_shape: Shape | None = None
    """Channels, height and width of one input, in place of --data: 3,224,224."""
    classes: Many = 10
    """Outputs of the network where --data does not say."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data is not None and self.input_shape is not None:
            raise LayerticketError("--data and --input-shape are both given; choose one.")

    def shape_of(self, model: str) -> tuple[tuple[int, int, int], str] | None:
        """Shape that is stated without images, and where; None: nowhere."""
        if self.input_shape is not None:
            return self.input_shape, "--input-shape"
        from layerticket.models.load import stated_shape

        own = None if self.data is not None else stated_shape(model)
        return None if own is None else (own, "the model's configuration")

    def shape_and_classes(self, model: str) -> tuple[tuple[int, int, int], int, str]:
        """What a network is built for, and where that comes from."""
        if self.data is None:
            shape, where = self.shape_of(model) or ((3, 32, 32), DEFAULT)
            return shape, self.classes, where
        known = SHAPES.get(self.data) if self.image_size is None else None
        if known is None:
            data = self.load()
            known = data.shape, data.classes
        return *known, f"data {self.data}"

    def images(self, model: str, batch_size: int) -> tuple["Dataset", str]:
        """Load the images, or make noise of the shape that is stated; and where it comes from."""
        stated = self.shape_of(model)
        if self.data is not None or stated is None:
            return self.load(), f"data {self.source}"
        from layerticket.data.dataset import noise

        images = max(1024, batch_size)
        return noise(stated[0], classes=self.classes, images=images), stated[1]


DEFAULT = "the default"


def input_line(shape: tuple[int, ...], where: str) -> str:
    """Tell which inputs a network was given, and where their shape comes from.

    Example:
        >>> input_line((1, 8, 8), "data digits")
        'Input 1 x 8 x 8, from data digits.'
    """
    return f"Input {' x '.join(map(str, shape))}, from {where}."


@contextmanager
def shape_named(shape: tuple[int, ...], where: str) -> Iterator[None]:
    """Say what a network was given where it raises, and how to give it something else."""
    try:
        yield
    except ModelError as err:
        raise ModelError(
            f"{err} {input_line(shape, where)} If it takes another, say so: --input-shape "
            "CHANNELS,HEIGHT,WIDTH, or --data with --image-size."
        ) from err


_GROUPS: Mapping[str, tuple[type, ...]] = {
    "Data": (Reading,),
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
        Parameter(name="*", group=group(_group))(_class)


def alone(what: str) -> None:
    """Raise if several processes were started for a command that needs only one.

    Raises:
        LayerticketError: If a launcher started several.
    """
    from layerticket.training.distributed import launched

    if (count := launched()) > 1:
        raise LayerticketError(
            f"`{what}` runs in one process, but {count} were started. Run it without torchrun or "
            "accelerate launch; only `train` can use several processes."
        )


def command_line() -> str:
    """Return the command that started this process, as typed in a shell."""
    return shlex.join(["layerticket", *sys.argv[1:]])
