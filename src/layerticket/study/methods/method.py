"""What every method of a study has to say: its label, what it needs first, how it is searched.

A method says what is to be trained in place of the dense network: a ticket, another network, or
another number of epochs. How it is trained and judged is the same for all.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from layerticket.data import Dataset
from layerticket.evaluation import Metering
from layerticket.selection import Budget
from layerticket.study.search.measuring import Bench
from layerticket.ticket import Ticket
from layerticket.training import Recipe

__all__ = ["NOT_SEARCHED", "Method", "Role", "Search"]

Role = Literal["dense", "reference"]
# Fields that decide what is done with the find, not what is found.
NOT_SEARCHED = ("label", "initialization", "draws", "reference")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Search:
    """Where, in what and for what budget something is searched."""

    model: str
    dataset: Dataset
    budget: Budget
    seed: int
    recipe: Recipe
    out: Path
    """Folder of what is found."""
    draw: int | None = None
    dense: Path | None = None
    """Run that trained the dense network, for a method that wants it."""
    reference: Path | None = None
    """Folder of the ticket whose cost is matched, for a method that wants it."""
    device: str = "auto"
    metering: Metering | None = None

    @property
    def ticket(self) -> Ticket:
        """The ticket whose cost is matched."""
        assert self.reference is not None
        return Ticket.load(self.reference)

    @property
    def bench(self) -> Bench:
        """What a measured budget is measured on, and how the search is metered."""
        return Bench(
            dataset=self.dataset, recipe=self.recipe, device=self.device, metering=self.metering
        )


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """One way to a network, as a value; the fields are the keys in a study file."""

    kind: ClassVar[str]
    """Its name as `method` in a study file."""
    wording: ClassVar[str]
    """Its label by default, with the names of fields in braces."""
    wants: ClassVar[tuple[Role, ...]] = ()
    """What has to be there before: the trained dense network, the reference ticket."""
    trains: ClassVar[bool] = False
    """Whether the search trains networks, in its own folder, where it goes on if cut off."""
    label: str = ""
    """How tables call it; by default after its settings."""

    def __post_init__(self) -> None:
        if not self.label:
            label = self.wording.format(**{f.name: getattr(self, f.name) for f in fields(self)})
            weights = ", new weights" if self.new_weights else ""
            object.__setattr__(self, "label", label + weights)

    @abstractmethod
    def search(self, at: Search) -> dict[str, Any]:
        """Find what is to be trained: a record with `ticket` (a folder), `model` or `epochs`.

        Raises:
            LayerticketError: If there is none.
        """

    @property
    def keeps(self) -> tuple[str, ...]:
        """Points of the dense training that have to be kept."""
        return ()

    @property
    def all_draws(self) -> tuple[int | None, ...]:
        """Numbers of the draws; a single None where nothing is drawn."""
        return (None,)

    @property
    def new_weights(self) -> bool:
        """Whether it is trained from other random weights than those it was found in."""
        return False

    @property
    def matched_to(self) -> str:
        """Label of the method whose ticket is the reference; empty: the first ticket."""
        return ""

    @property
    def searched(self) -> Mapping[str, Any]:
        """Settings that decide what is found, as JSON values; methods that share them share it."""
        values = {k: v for k, v in asdict(self).items() if k not in NOT_SEARCHED}
        return {"method": self.kind, **values}
