"""A study file as one frozen value: networks, data, seeds, recipe, methods and evaluations."""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import PlainValidator

from layerticket.data.sources import Reading, data_name
from layerticket.errors import LayerticketError, unknown_name
from layerticket.evaluation.robustness import Conditions
from layerticket.models.names import check_model_name
from layerticket.selection import Budget
from layerticket.settings import (
    Confidence,
    Flag,
    Many,
    Margin,
    Range,
    Share,
    Side,
    Size,
    Text,
    Whole,
    check_shape,
    settings,
    to_table,
)
from layerticket.study.methods import (
    ImpMethod,
    LotteryMethod,
    Method,
    ShallowerMethod,
    TicketMethod,
    check_distinct,
)
from layerticket.training.checkpoint import epoch_at, epochs_at
from layerticket.training.device import Metering
from layerticket.training.recipe import Recipe
from layerticket.training.trackers import Trackers

if TYPE_CHECKING:  # a study file is read without torch
    from torch import Tensor

MOST_ROWS = 100_000
Network = Text | Callable[..., Any]


def _images(given: object) -> object:
    """Return a name, a data set or a batch (images, labels); a file can have only a name."""
    if isinstance(given, str) or hasattr(given, "fingerprint"):
        return given
    if (
        isinstance(given, (tuple, list))  # a DataLoader gives a list
        and len(given) == 2
        and all(hasattr(part, "shape") for part in given)
    ):
        return tuple(given)
    raise LayerticketError(
        f"data is a {type(given).__name__}. Give a data set by name, a layerticket.Dataset, or, if "
        "fit trains, a batch (images, labels) to score on."
    )


if TYPE_CHECKING:
    Images = Any
else:
    Images = Annotated[str, PlainValidator(_images)]


@settings
class StudyFile:
    """All settings of a study file; the dense network is always part of the study."""

    title: Text
    """Title, in one line."""
    models: tuple[Network, ...]
    """Networks by name or as package.module:function; from Python also functions themselves."""
    data: Images = ""
    """Data set by name; digits by default. May be left out where `fit` trains. From Python also a
    data set itself, or a batch that methods score on where `fit` trains."""
    input_shape: tuple[Side, ...] = ()
    """Shape of one input, if no data set is named."""
    classes: Many = 10
    """Outputs of the networks, if no data set is named."""
    validation_fraction: Share = 0.1
    """Share of the training images used for validation."""
    image_size: Size | None = None
    """Height and width that all images are resized to."""
    value_range: Range | None = None
    """Pixel values of black and white, for images of 16 bits."""
    seeds: tuple[Whole, ...] = (0, 1, 2, 3, 4)
    """For each, the dense network and every method are trained once."""
    budgets: tuple[Budget, ...] = (Budget(remove=1),)
    """How much is removed; each budget gives its own rows."""
    margin: Margin = 0.01
    """How much accuracy a winning ticket may lose, as a fraction."""
    confidence: Confidence = 0.95
    """Confidence of all intervals."""
    evaluate: tuple[Text, ...] = ()
    """Evaluations in addition to test accuracy, named as in `layerticket evaluate --on`."""
    similarity: Flag = False
    """Whether layers of each network are compared with those of the dense one."""
    timing: Flag = False
    """Whether inference of each trained network is timed against the dense one."""
    keep_weights: Literal["all", "none"] = "all"
    """none: delete trained weights when every row that needs them is done."""
    fit: Network = ""
    """Your own training, package.module:function; called with (model, seed, folder)."""
    version: Text = ""
    """Version of Python functions given as networks, `fit` or criteria; without it no result is
    reused."""
    recipe: Recipe = Recipe()
    """How every network is trained."""
    reading: Reading = Reading()
    """How images are read; decides nothing."""
    conditions: Conditions = Conditions()
    """Conditions of the evaluations."""
    energy: Metering = Metering()
    """How energy is measured; left out: it is not measured."""
    tracking: Trackers = Trackers()
    """Trackers that get the curve of every training; they change no result."""
    methods: tuple[Method, ...] = ()
    """Methods that are compared with the dense network."""

    def __post_init__(self) -> None:
        if not self.methods:
            raise LayerticketError("there are no methods. Add one: [[methods]], method = ticket.")
        for name, values in (
            ("models", self.models),
            ("seeds", self.seeds),
            ("budgets", self.budgets),
        ):
            check_distinct(name, values)
        for model in (*self.models, *self.shallower):
            if isinstance(model, str):
                check_model_name(model)
        names = [name_of(model) for model in self.models]
        if twice := [name for name in names if names.count(name) > 1]:
            raise LayerticketError(
                f"two models are named {twice[0]!r}. Give them as functions with different names."
            )
        if self.data and isinstance(self.data, str):
            object.__setattr__(self, "data", data_name(self.data))
        if self.fit:
            self._check_own_training()
        elif self.batch is not None:
            raise LayerticketError(
                "data is a batch, which can be scored on but not trained on. Give a data set, or "
                "train by a fit of your own."
            )
        elif not self.data:
            object.__setattr__(self, "data", "digits")
        elif self.input_shape:
            raise LayerticketError("the data set gives the input shape; leave input_shape out.")
        check_shape(self.input_shape, "input_shape")
        self._check_labels()
        self._check_size()
        self._check_epochs()

    def _check_own_training(self) -> None:
        """Raise for settings that need a training by a recipe, or data that are not named."""
        if self.recipe != Recipe() or self.tracking.track:
            raise LayerticketError(
                "fit trains in its own way, so recipe and tracking have no effect. Leave them out."
            )
        for budget in (*self.budgets, *(b for m in self.methods for b in m.budgets or ())):
            if budget.measured:
                raise LayerticketError(
                    f"budget {budget_text(budget)!r} needs timed training steps, but fit trains in "
                    "its own way. Use remove, save_macs or save_params."
                )
        for method in self.methods:
            if method.needs_recipe:
                raise LayerticketError(
                    f"method {method.label!r} needs epochs and snapshots, but those of fit are not "
                    "known. Leave the method out, or train by a recipe."
                )
            if method.needs_labels and not self.data:
                raise LayerticketError(
                    f"method {method.label!r} scores on labelled images, but the study names no "
                    'data. Add data = "...", or use a criterion without data: synflow, magnitude '
                    "or random."
                )
            images = getattr(method, "images", None)
            if self.batch is not None and images is not None:
                raise LayerticketError(
                    f"method {method.label!r} asks for {images} images, but all methods score on "
                    "the batch that is given. Leave images out."
                )
        if not self.has_data and (self.evaluate or self.similarity):
            raise LayerticketError(
                "evaluate and similarity need images, but the study names no data. Add data."
            )

    def _check_epochs(self) -> None:
        """Raise if a snapshot is of no epoch, or rewinding leaves no epoch to train."""
        epochs = self.recipe.epochs
        epochs_at(self.snapshot_points, epochs)
        for method in self.methods:
            rewind = method.rewind if isinstance(method, LotteryMethod | ImpMethod) else 0
            if epoch_at(rewind, epochs) == epochs:
                raise LayerticketError(
                    f"rewind of {method.label!r} is {rewind!r}, which leaves nothing to train: the "
                    f"recipe has {epochs} epochs. Rewind to an earlier epoch."
                )

    def _check_size(self) -> None:
        """Raise if the study has too many rows, before they are planned."""
        rows = len(self.models) * len(self.all_seeds)
        rows *= 1 + sum(
            len(m.budgets or self.budgets) * int(getattr(m, "draws", 1)) for m in self.methods
        )
        if rows > MOST_ROWS:
            raise LayerticketError(
                f"the study has {rows:,} rows (models x seeds x methods x budgets x draws); at "
                f"most {MOST_ROWS:,} are allowed. Take fewer seeds, or several studies."
            )

    def _check_labels(self) -> None:
        """Raise if two methods share a label, or a reference names no ticket."""
        labels = Counter(method.label for method in self.methods)
        twice = [label for label, count in labels.items() if count > 1 or label == "dense"]
        if twice:
            raise LayerticketError(
                f"two methods have the label {twice[0]!r} (dense is always used). Give one of "
                'them another: label = "...".'
            )
        for method in self.methods:
            if "reference" in method.wants:
                self.reference_of(method)

    @property
    def batch(self) -> "tuple[Tensor, Tensor] | None":
        """The batch that methods score on, where one was given in place of a data set."""
        return self.data if isinstance(self.data, tuple) else None

    @property
    def has_data(self) -> bool:
        """Whether a data set is named or given."""
        return bool(self.data) and self.batch is None

    @property
    def has_objects(self) -> bool:
        """Whether something is given that only this process has: a function, data."""
        given = (*self.models, self.fit, self.data, *self.own_criteria)
        return any(not isinstance(one, str) for one in given)

    @property
    def own_criteria(self) -> tuple[str | Callable[..., Any], ...]:
        """Criteria of the user's own: module:function, or the function if it is not in a module."""
        called = (method.calls.get("criterion") for method in self.methods)
        return tuple(dict.fromkeys(one for one in called if one is not None))

    @property
    def shallower(self) -> tuple[str, ...]:
        """Shallower networks that methods name, other than those of the study."""
        known = ["", *map(name_of, self.models)]
        named = (m.model for m in self.methods if isinstance(m, ShallowerMethod))
        return tuple(name for name in named if name not in known)

    def method(self, label: str) -> Method:
        """Return the method with a label."""
        return next(method for method in self.methods if method.label == label)

    def reference_of(self, method: Method) -> Method:
        """Return the method whose ticket a baseline is matched to.

        Raises:
            LayerticketError: If no ticket method has that label, or there is no ticket method.
        """
        tickets = {m.label: m for m in self.methods if isinstance(m, TicketMethod | LotteryMethod)}
        if not tickets:
            raise LayerticketError(
                f"method {method.label!r} is matched to a ticket, but the study has none. Add one: "
                '[[methods]] with method = "ticket".'
            )
        wanted = getattr(method, "reference", "") or next(iter(tickets))
        if wanted not in tickets:
            raise unknown_name(f"reference of {method.label!r}", wanted, tickets)
        return tickets[wanted]

    def reference_label(self, method: Method) -> str | None:
        """Return the label of the method that this one is compared with; None if there is none.

        A ticket trained from new weights is compared with the one that keeps its own.
        """
        if "reference" in method.wants:
            return self.reference_of(method).label
        twins = [m for m in self.methods if m.searched == method.searched and not m.new_weights]
        return twins[0].label if method.new_weights and twins else None

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of the study, then those of single methods."""
        own = (seed for method in self.methods for seed in method.seeds or ())
        return tuple(dict.fromkeys((*self.seeds, *own)))

    @property
    def snapshot_points(self) -> tuple[str, ...]:
        """Epochs of the dense training whose snapshots the methods need."""
        return tuple(dict.fromkeys(p for method in self.methods for p in method.snapshot_points))


def budget_text(budget: Budget) -> str:
    """Return a budget as text.

    Example:
        >>> budget_text(Budget(remove=5))
        'remove 5'
    """
    ((name, value),) = to_table(budget).items()
    return f"{name} {value:g}"


def name_of(thing: str | Callable[..., Any]) -> str:
    """Return the name of a network or a training: as given, or the name of a Python function.

    Example:
        >>> name_of("resnet20")
        'resnet20'
    """
    if isinstance(thing, str):
        return thing
    return str(getattr(thing, "__qualname__", None) or type(thing).__qualname__)
