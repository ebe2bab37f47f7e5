"""How much is to go, and what blocks cost: a budget as stated, and the same in numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from layerticket.blocks import Block, Blocks
from layerticket.errors import LayerticketError

__all__ = ["Budget", "Costs", "Goal", "goal_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How much is to go: exactly one of these.

    The last three are about measured costs, so `select` needs the `Costs` of the blocks for them.
    """

    remove: int | None = None
    """Number of blocks, >= 1."""
    save_macs: float | None = None
    """Least share of the network's multiply-accumulates to save, in (0, 1)."""
    save_params: float | None = None
    """Least share of the network's parameters to save, in (0, 1)."""
    save_time: float | None = None
    """Least share of the measured time of a training step to save, in (0, 1)."""
    save_energy: float | None = None
    """Least share of the measured energy of a training step to save, in (0, 1)."""
    max_memory: int | None = None
    """Most bytes of memory training may take at its peak, >= 1."""

    def __post_init__(self) -> None:
        given = self._given()
        if sum(value is not None for value in given.values()) != 1:
            raise LayerticketError(
                f"a budget is exactly one of {', '.join(given)}; got "
                f"{ {name: value for name, value in given.items() if value is not None} }."
            )
        if self.remove is not None and self.remove < 1:
            raise LayerticketError(f"remove is {self.remove}; it must be at least 1 block.")
        if self.max_memory is not None and self.max_memory < 1:
            raise LayerticketError(f"max_memory is {self.max_memory}; it must be at least 1 byte.")
        for name in ("save_macs", "save_params", "save_time", "save_energy"):
            share = given[name]
            if share is not None and not 0 < share < 1:
                raise LayerticketError(f"{name} is {share}; it must be a share between 0 and 1.")

    @property
    def measured(self) -> bool:
        """Whether it is about costs that have to be measured."""
        return any(v is not None for v in (self.save_time, self.save_energy, self.max_memory))

    def parts(self, rounds: int) -> tuple["Budget", ...]:
        """Return what has to be gone after each of `rounds` equal rounds; the last is the whole.

        Raises:
            LayerticketError: If `rounds` is below 1 or above the number of blocks to remove.

        Example:
            >>> [part.remove for part in Budget(remove=5).parts(2)]
            [3, 5]
        """
        if rounds < 1 or (self.remove is not None and rounds > self.remove):
            allowed = "1 or more" if self.remove is None else f"1 to {self.remove}, a block a round"
            raise LayerticketError(f"rounds is {rounds}; with this budget it must be {allowed}.")
        if rounds == 1:
            return (self,)
        steps = range(1, rounds)
        if self.remove is not None:
            early = [Budget(remove=-(-self.remove * step // rounds)) for step in steps]
            return (*early, self)
        if self.max_memory is not None:
            raise LayerticketError(f"rounds is {rounds}; a budget of memory is met in one round.")
        name, share = next((n, v) for n, v in self._given().items() if v is not None)
        return (*(Budget(**{name: share * step / rounds}) for step in steps), self)

    def _given(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What a network costs as a whole, and by how much each block makes it dearer."""

    what: str
    """In words and with the unit, e.g. "step time in s"."""
    total: float
    """Cost of the whole network."""
    blocks: Mapping[str, float]
    """Cost of every removable block by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """A budget in numbers: what has to add up to how much."""

    words: str
    needed: float
    cost: Callable[[Block], float]

    def met(self, removed: list[Block]) -> bool:
        """Whether these blocks are enough."""
        return sum(self.cost(block) for block in removed) >= self.needed


def goal_of(budget: Budget, blocks: Blocks, costs: Costs | None) -> Goal:
    """Put a budget in numbers."""
    if budget.remove is not None:
        return Goal(words=f"{budget.remove} blocks", needed=budget.remove, cost=lambda _: 1)
    if budget.save_macs is not None:
        return Goal(
            words=f"{budget.save_macs:.1%} of the MACs",
            needed=budget.save_macs * blocks.macs,
            cost=lambda block: block.macs,
        )
    if budget.save_params is not None:
        return Goal(
            words=f"{budget.save_params:.1%} of the parameters",
            needed=budget.save_params * blocks.params,
            cost=lambda block: block.params,
        )
    if costs is None or set(costs.blocks) != {block.name for block in blocks}:
        raise LayerticketError(
            "this budget is about a measured cost; pass costs=Costs(...) with the cost of every "
            "removable block, or use `layerticket find`, which measures them."
        )
    return _measured_goal(budget, costs)


def _measured_goal(budget: Budget, costs: Costs) -> Goal:
    """Put a budget of measured costs in numbers."""
    share = budget.save_time if budget.save_time is not None else budget.save_energy
    if share is not None:
        words, needed = f"{share:.1%} of the {costs.what}", share * costs.total
    else:
        assert budget.max_memory is not None
        words = f"at most {budget.max_memory:,} of {costs.total:,.0f} {costs.what}"
        needed = costs.total - budget.max_memory
        if needed <= 0:
            raise LayerticketError(
                f"the budget asks for {words}, which the dense network keeps as it is. "
                "Train it without a ticket, or ask for less."
            )
    return Goal(words=words, needed=needed, cost=lambda block: costs.blocks[block.name])
