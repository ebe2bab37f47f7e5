"""What is known of a block, and of a candidate that must stay."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, overload

from layerticket.errors import LayerticketError, unknown_name

__all__ = ["Block", "Blocks", "Rejection"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One residual block that the identity can replace."""

    name: str
    """As in ``named_modules()``."""
    position: int
    """Place among the removable blocks in the order of execution, from 0."""
    stage: int
    """Blocks of equal shape in one container share a stage; numbered from 0."""
    shape: tuple[int, ...]
    """Shape of what flows through, without the batch dimension."""
    params: int
    """Parameters inside."""
    macs: int
    """Multiply-accumulates per example."""
    call: Literal["plain", "rich"]
    """`plain`: one tensor in, one out. `rich`: more arguments or outputs, inside a list."""
    post_norm: bool
    """Whether a normalization stands behind the addition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """A candidate that must stay, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocks(Sequence[Block]):
    """The removable blocks of a network in the order of execution, and what was rejected."""

    removable: tuple[Block, ...]
    rejected: tuple[Rejection, ...]
    params: int
    """Parameters of the whole network."""
    macs: int
    """Multiply-accumulates of the whole network per example."""

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Block, ...]: ...
    def __getitem__(self, index: int | slice) -> Block | tuple[Block, ...]:
        return self.removable[index]

    def __len__(self) -> int:
        return len(self.removable)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.removable)

    def without(self, names: Sequence[str]) -> "Blocks":
        """Return what is left when these blocks are removed; positions and stages stay as named.

        Raises:
            LayerticketError: As `named` does.
        """
        gone = self.named(names)
        return Blocks(
            removable=tuple(block for block in self.removable if block not in gone),
            rejected=self.rejected,
            params=self.params - sum(block.params for block in gone),
            macs=self.macs - sum(block.macs for block in gone),
        )

    def named(self, names: Sequence[str]) -> tuple[Block, ...]:
        """Return the blocks of these names in the order of execution.

        Raises:
            LayerticketError: If a name is not a removable block, with the reason where known.
        """
        reasons = {rejection.name: rejection.reason for rejection in self.rejected}
        available = {block.name for block in self.removable}
        for name in names:
            if name in reasons:
                raise LayerticketError(
                    f"block {name!r} cannot be removed: it {reasons[name]}. "
                    f"Removable: {', '.join(block.name for block in self.removable)}."
                )
            if name not in available:
                raise unknown_name("block", name, available)
        return tuple(block for block in self.removable if block.name in set(names))
