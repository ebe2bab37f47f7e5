"""A study as one frozen value: what is trained on what, how, how often, and how it is judged."""

from collections import Counter
from dataclasses import dataclass, field

from layerticket.errors import LayerticketError, unknown_name
from layerticket.evaluation.energy import Metering
from layerticket.evaluation.robustness import Conditions
from layerticket.selection import Budget
from layerticket.study.methods import LotteryMethod, Method, TicketMethod
from layerticket.training.checkpoint import epochs_at
from layerticket.training.recipe import Recipe
from layerticket.training.trackers import Tracking


@dataclass(frozen=True, kw_only=True)
class StudyFile:
    """Everything a study file can say; the dense network is always part of it."""

    title: str
    """What it is about, in a line."""
    models: tuple[str, ...]
    """Networks by name."""
    data: str = "digits"
    """Data set by name."""
    validation_fraction: float = 0.1
    """Share of the training images set aside."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One pair of dense network and method each."""
    budgets: tuple[Budget, ...] = (Budget(remove=1),)
    """How much goes; each is a density of its own."""
    margin: float = 0.01
    """How much accuracy a winning ticket may lose, as a fraction."""
    confidence: float = 0.95
    """Of all intervals, in (0, 1)."""
    evaluate: tuple[str, ...] = ()
    """What trained networks are judged on beside the test set."""
    similarity: bool = False
    """Whether layers of each network are compared with those of the dense one."""
    recipe: Recipe = field(default_factory=Recipe)
    """How every network is trained."""
    conditions: Conditions = field(default_factory=Conditions)
    """Of the evaluations."""
    energy: Metering = field(default_factory=Metering)
    """What is known about electricity; nothing: energy is not measured."""
    tracking: Tracking = field(default_factory=Tracking)
    """Trackers that the curve of every training is sent to; decides nothing."""
    methods: tuple[Method, ...] = ()
    """What is compared with the dense network."""

    def __post_init__(self) -> None:
        if not self.methods:
            raise LayerticketError("there are no methods. Add one: [[methods]], method = ticket.")
        for name in ("models", "seeds", "budgets"):
            values = getattr(self, name)
            if not values or any(values.index(v) != i for i, v in enumerate(values)):
                raise LayerticketError(f"{name} are {values}; give at least one, and none twice.")
        if min(self.seeds) < 0:
            raise LayerticketError(f"a seed is {min(self.seeds)}; seeds are 0 or more.")
        if not 0 <= self.margin < 1 or not 0 < self.confidence < 1:
            raise LayerticketError(
                f"margin {self.margin}, confidence {self.confidence}: they must lie in [0, 1) and "
                "(0, 1); 0.01 is one percentage point."
            )
        self._check_labels()
        epochs_at(self.keeps, self.recipe.epochs)  # a wrong point is told before any training

    def _check_labels(self) -> None:
        """Refuse labels that two methods share, and references to none."""
        labels = Counter(method.label for method in self.methods)
        twice = [label for label, count in labels.items() if count > 1 or label == "dense"]
        if twice:
            raise LayerticketError(
                f"two methods are called {twice[0]!r} (dense is always there). Give one of them "
                'another name: label = "...".'
            )
        for method in self.methods:
            if "reference" in method.wants:
                self.reference_of(method)

    def reference_of(self, method: Method) -> Method:
        """Return the method whose ticket a rival is matched to.

        Raises:
            LayerticketError: If there is none of that label, or no ticket at all.
        """
        tickets = {m.label: m for m in self.methods if isinstance(m, TicketMethod | LotteryMethod)}
        if not tickets:
            raise LayerticketError(
                f"method {method.label!r} is matched to a ticket, but there is none. Add one: "
                '[[methods]] with method = "ticket".'
            )
        wanted = method.matched_to or next(iter(tickets))
        if wanted not in tickets:
            raise unknown_name(f"reference of {method.label!r}", wanted, tickets)
        return tickets[wanted]

    @property
    def keeps(self) -> tuple[str, ...]:
        """Points of the dense training that the methods go back to."""
        return tuple(dict.fromkeys(point for method in self.methods for point in method.keeps))
