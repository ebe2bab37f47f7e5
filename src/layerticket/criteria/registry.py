"""The registry of criteria: what one is, and how a name finds it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from layerticket.errors import LayerticketError, unknown_name

Normalization = Literal["batch", "running"]
Reduction = Literal["sum", "mean"]

Fn = TypeVar("Fn", bound=Callable[..., Mapping[str, float]])


@dataclass(frozen=True, slots=True)
class Criterion:
    """What is known about a criterion besides its formula."""

    name: str
    fn: Callable[..., Mapping[str, float]]
    cites: str
    """The paper it comes from."""
    uses: tuple[Literal["inputs", "targets"], ...]
    """What of the batch it reads."""
    order: Literal[0, 1, 2]
    """Highest derivative of the loss it takes."""
    normalization: tuple[Normalization, ...] = ("batch", "running")
    """Modes of batch normalization it can be computed in; the first is its default."""

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        return (self.fn.__doc__ or "").strip().splitlines()[0]


_CRITERIA: dict[str, Criterion] = {}


def criterion(
    name: str,
    *,
    cites: str,
    uses: tuple[Literal["inputs", "targets"], ...],
    order: Literal[0, 1, 2],
    normalization: tuple[Normalization, ...] = ("batch", "running"),
) -> Callable[[Fn], Fn]:
    """Register a function as a criterion and return it unchanged.

    Criteria for untrained networks normalize over the batch by default, as the first training
    step does; criteria for trained networks by the running averages, as in evaluation.

    Raises:
        LayerticketError: If the name is taken.
    """

    def register(fn: Fn) -> Fn:
        if name in _CRITERIA:
            raise LayerticketError(
                f"criterion {name!r} is already registered; choose another name."
            )
        _CRITERIA[name] = Criterion(name, fn, cites, uses, order, normalization)
        return fn

    return register


def criterion_names() -> tuple[str, ...]:
    """List the registered criteria in alphabetical order."""
    return tuple(sorted(_CRITERIA))


def get_criterion(name: str) -> Criterion:
    """Find a criterion by name.

    Raises:
        LayerticketError: If there is none, naming the nearest.
    """
    if name not in _CRITERIA:
        raise unknown_name("criterion", name, _CRITERIA)
    return _CRITERIA[name]
