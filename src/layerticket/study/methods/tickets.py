"""Tickets of whole blocks: found at initialization, or in a trained network and rewound."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from layerticket.criteria import get_criterion
from layerticket.errors import LayerticketError
from layerticket.study.methods.method import Method, Role, Search
from layerticket.study.search.find import find_in, find_in_run

__all__ = ["LotteryMethod", "Rules", "TicketMethod"]

Weights = Literal["ticket", "seed"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which blocks must stay."""

    protect: tuple[str, ...] = ()
    """Patterns of names, e.g. "layer1.*"."""
    min_per_stage: int = 0
    """Removable blocks that must remain in every stage."""
    keep_neighbours: bool = False
    """Keep the blocks next to each down-sampling."""


@dataclass(frozen=True, kw_only=True)
class _Scored(Method):
    """What tickets have in common, however they are found."""

    criterion: str = "grasp"
    """Registered name."""
    rounds: int = 1
    """Rounds of scoring and removing."""
    initialization: Weights = "ticket"
    """ticket: trained from its own weights; seed: from new random ones."""
    images: int | None = None
    """Size of the scoring batch; by default ten of every class."""
    balanced: bool = True
    """Whether every class appears equally often in it."""
    rules: Rules = field(default_factory=Rules)
    """Which blocks must stay."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The criterion's own options."""

    def __post_init__(self) -> None:
        get_criterion(self.criterion)  # a wrong name is told before any training
        if self.rounds < 1:
            raise LayerticketError(f"rounds is {self.rounds}; it must be at least 1.")
        super().__post_init__()

    @property
    def new_weights(self) -> bool:
        """As `initialization` says."""
        return self.initialization == "seed"

    def _how(self, at: Search) -> dict[str, Any]:
        return {
            "budget": at.budget,
            "out": at.out,
            "criterion": self.criterion,
            "images": self.images,
            "balanced": self.balanced,
            "rounds": self.rounds,
            "rules": asdict(self.rules),
            "options": self.options,
            "bench": at.bench,
        }


@dataclass(frozen=True, kw_only=True)
class TicketMethod(_Scored):
    """A ticket found at initialization (Algorithm 2)."""

    kind: ClassVar[str] = "ticket"
    wording: ClassVar[str] = "{criterion}"

    def search(self, at: Search) -> dict[str, Any]:
        """Find the ticket in the network at initialization."""
        return find_in(at.model, at.dataset, seed=at.seed, **self._how(at))


@dataclass(frozen=True, kw_only=True)
class LotteryMethod(_Scored):
    """A ticket found in the trained network and set back to an epoch of it (Algorithm 1)."""

    kind: ClassVar[str] = "lottery"
    wording: ClassVar[str] = "lottery {criterion} {rewind}"
    wants: ClassVar[tuple[Role, ...]] = ("dense",)
    rewind: str = "0"
    """Epoch the weights are set back to, or a share such as "25%"."""
    score_at: str = "100%"
    """Epoch whose weights are scored."""

    @property
    def keeps(self) -> tuple[str, ...]:
        """The epoch it goes back to, and the one that is scored."""
        return tuple(point for point in (self.rewind, self.score_at) if point != "100%")

    def search(self, at: Search) -> dict[str, Any]:
        """Find the ticket in the trained network, and set it back."""
        assert at.dense is not None
        return find_in_run(
            at.dense,
            at.dataset,
            rewind_to=self.rewind,
            score_at=self.score_at,
            **self._how(at),
        )
