"""The table of criteria: facts about each, and the location of its function; imports no torch.

A criterion is a plain function. A criterion for *blocks* takes ``(model, blocks, batch)`` and
returns a number for each block; one for *weights* takes ``(model, weights, batch)`` and
returns a tensor for each weight tensor: a block sums or averages these, a filter sums its slices,
a mask uses them directly. Higher = keep.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from layerticket.errors import LayerticketError, imported, unknown_name
from layerticket.settings import Count, Flag, Positive, Whole, checked

Normalization = Literal["batch", "running"]
Reduction = Literal["sum", "mean"]
ZeroInit = Literal["as-is", "as-one"]
Reads = Literal["inputs", "targets"]
Fn = TypeVar("Fn", bound=Callable[..., Mapping[str, Any]])

INITIALIZED: tuple[Normalization, ...] = ("batch", "running")
TRAINED: tuple[Normalization, ...] = ("running", "batch")


@dataclass(frozen=True, slots=True)
class Criterion:
    """Facts about a criterion, other than its formula."""

    name: str
    source: str | Callable[..., Mapping[str, Any]]
    """The function, or its location: ``module:function``."""
    cites: str
    """The paper it comes from."""
    uses: tuple[Reads, ...]
    """Parts of the batch that it reads."""
    order: Literal[0, 1, 2]
    """Highest derivative of the loss it takes."""
    normalization: tuple[Normalization, ...] = INITIALIZED
    """Modes of batch normalization that it can use; the first is the default."""
    values: Literal["blocks", "weights"] = "blocks"
    """What its function scores."""
    options: tuple[str, ...] | None = None
    """Its own options; None: taken from the function."""
    exact: Mapping[str, Any] = field(default_factory=dict)
    """Required options if single weights are compared, not sums over tensors."""
    module: str | None = None
    """The user's module whose import registers it; None: only this process has it."""

    @property
    def fn(self) -> Callable[..., Mapping[str, Any]]:
        """The function; its module is imported now."""
        if not isinstance(self.source, str):
            return self.source
        module, _, function = self.source.partition(":")
        found: Callable[..., Mapping[str, Any]] = getattr(importlib.import_module(module), function)
        return found

    @property
    def is_built_in(self) -> bool:
        """Whether it is one of this package."""
        return isinstance(self.source, str)

    @property
    def defaults(self) -> dict[str, Any]:
        """The function's own options with their defaults; its module is imported now."""
        return {
            name: parameter.default
            for name, parameter in inspect.signature(self.fn).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }

    def option_names(self, of: Literal["blocks", "weights"] = "blocks") -> tuple[str, ...]:
        """List all options for scoring blocks, or single weights."""
        own = [*(self.defaults if self.options is None else self.options)]
        names = [name for name in own if of == "blocks" or name not in self.exact]
        names += ["normalization"]
        names += ["temperature"] if "loss_fn" in own else []
        names += ["zero_init"] if of == "blocks" and self.uses else []
        names += ["reduction"] if of == "blocks" and self.values == "weights" else []
        return tuple(sorted(names))


def _ours(name: str, cites: str, **known: Any) -> Criterion:  # noqa: ANN401 - of `Criterion`
    return Criterion(name, f"layerticket.criteria.{name}:{name}", cites, **known)


_CRITERIA: dict[str, Criterion] = {
    known.name: known
    for known in (
        _ours(
            "grasp",
            "Wang et al., ICLR 2020, arXiv:2002.07376",
            uses=("inputs", "targets"),
            order=2,
            values="weights",
            options=("loss_fn", "micro_batches", "hessian", "halves", "redraw"),
            exact={"hessian": "exact"},
        ),
        _ours(
            "snip",
            "Lee et al., ICLR 2019, arXiv:1810.02340",
            uses=("inputs", "targets"),
            order=1,
            values="weights",
            options=("loss_fn", "micro_batches", "redraw"),
        ),
        _ours(
            "synflow",
            "Tanaka et al., NeurIPS 2020, arXiv:2006.05467",
            uses=("inputs",),
            order=1,
            normalization=("running",),
            values="weights",
            options=(),
        ),
        _ours(
            "magnitude",
            "Li et al., ICLR 2017, arXiv:1608.08710",
            uses=(),
            order=0,
            values="weights",
            options=(),
        ),
        _ours("random", "control", uses=(), order=0, options=("draw",)),
        _ours(
            "hrank",
            "Lin et al., CVPR 2020, arXiv:2002.10179",
            uses=("inputs",),
            order=0,
            normalization=TRAINED,
            options=("relative", "micro_batches"),
        ),
        _ours(
            "expect_abs",
            "Tan & Motani, ICML 2020",
            uses=("inputs",),
            order=0,
            normalization=TRAINED,
            options=("micro_batches",),
        ),
        _ours(
            "pls",
            "Jordao et al., IEEE J-STSP 2020",
            uses=("inputs", "targets"),
            order=0,
            normalization=TRAINED,
            options=("n_components", "micro_batches"),
        ),
        _ours(
            "kl",
            "Luo & Wu, CVPR 2020, arXiv:1911.08114",
            uses=("inputs",),
            order=0,
            normalization=TRAINED,
            options=("micro_batches",),
        ),
        _ours(
            "cka",
            "Kornblith et al., ICML 2019, arXiv:1905.00414",
            uses=("inputs",),
            order=0,
            normalization=TRAINED,
            options=("micro_batches",),
        ),
    )
}


def criterion(
    name: str,
    *,
    cites: str,
    uses: tuple[Reads, ...],
    order: Literal[0, 1, 2],
    normalization: tuple[Normalization, ...] = INITIALIZED,
    values: Literal["blocks", "weights"] = "blocks",
) -> Callable[[Fn], Fn]:
    """Register your function as a criterion and return it unchanged.

    Criteria for untrained networks normalize over the batch by default, as the first training
    step does; criteria for trained networks by the running averages, as in evaluation.

    Args:
        name: Name of the new criterion.
        cites: The paper it comes from.
        uses: Parts of the batch that it reads.
        order: Highest derivative of the loss it takes.
        normalization: Modes of batch normalization that it can use, the default first.
        values: `blocks`: the function takes ``(model, blocks, batch)`` and returns a number for
            each block by name; `weights`: it takes ``(model, weights, batch)``, parameters by name,
            and returns a tensor of the same shape for each; then it also scores filters and masks.

    Raises:
        LayerticketError: If the name is taken.
    """
    caller = sys._getframe(1)
    at_import = caller.f_code.co_name == "<module>"
    known = str(caller.f_globals.get("__name__", "__main__"))
    module = known if at_import and known != "__main__" else None

    def register(fn: Fn) -> Fn:
        if name in _CRITERIA:
            raise LayerticketError(
                f"criterion {name!r} is already registered; choose another name."
            )
        _CRITERIA[name] = Criterion(
            name, fn, cites, uses, order, normalization, values, module=module
        )
        return fn

    return register


OPTION_TYPES: Mapping[str, Any] = {
    "reduction": Reduction,
    "normalization": Normalization,
    "temperature": Positive,
    "micro_batches": Count,
    "hessian": Literal["auto", "shortcut", "exact"],
    "halves": Flag,
    "redraw": Whole | None,
    "draw": Whole,
    "relative": Flag,
    "n_components": Count,
    "slices": Literal["filters", "all"],
}
"""Types of options that several criteria have; a criterion checks its other options itself."""


def check_options(criterion: str, allowed: Collection[str], options: Mapping[str, Any]) -> None:
    """Raise if a criterion does not have an option, or an option has an invalid value.

    Args:
        criterion: Name of the criterion, for messages.
        allowed: Names of its options.
        options: The given options.

    Raises:
        LayerticketError: With the first wrong option.

    Example:
        >>> check_options("grasp", ("temperature",), {"temperature": [1]})
        Traceback (most recent call last):
        ...
        layerticket.errors.LayerticketError: options.temperature is [1]; it must be a number.
    """
    for name, value in options.items():
        if name not in allowed:
            raise unknown_name(f"option of criterion {criterion!r}", name, allowed)
        if name in OPTION_TYPES:
            checked(f"options.{name}", OPTION_TYPES[name], value)


def criterion_names(of: Literal["blocks", "filters", "weights"] = "blocks") -> tuple[str, ...]:
    """List the criteria for blocks, filters or single weights, in alphabetical order.

    The magnitude of filters is named l1.
    """
    if of == "blocks":
        return tuple(sorted(_CRITERIA))
    single = {known.name for known in _CRITERIA.values() if known.values == "weights"}
    return tuple(sorted(single if of == "weights" else {"l1", "random", *single} - {"magnitude"}))


def get_criterion(name: str) -> Criterion:
    """Return a criterion by name; `package.module:NAME` imports the module that registers it.

    Raises:
        LayerticketError: If there is none; the message gives the nearest name.
    """
    module, colon, own = name.rpartition(":")
    if colon:
        imported(module, f"criterion {name!r}")
        found = _CRITERIA.get(own)
        if found is None or found.module != module:
            raise LayerticketError(
                f"criterion {name!r}: {module!r} registers no criterion {own!r}. Register it "
                "there, at the top level: @layerticket.criterion(NAME, ...)."
            )
    if own not in _CRITERIA:
        raise unknown_name("criterion", own, _CRITERIA)
    return _CRITERIA[own]
