"""Finds branches that are added outside of their own module: ``x = x + b(x)`` in a loop over b.

All tensor operations of a forward pass are recorded. If two tensors of equal shape are
added, and one is the output of a module that was computed from the other, then this module is a
branch and the other tensor is the running value of the residual stream.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from layerticket.batch import first_tensor, tensors_of
from layerticket.blocks.block import Branch
from layerticket.blocks.probe import (
    Args,
    Kwargs,
    Usage,
    find_input,
    is_inside,
    is_only_argument,
    largest_module,
    repeated_arguments,
)

aten = torch.ops.aten
SUMS = (aten.add.Tensor, aten.add_.Tensor, aten.addcmul.default, aten.addcmul_.default)
SCALED = (
    *(aten.mul.Tensor, aten.mul_.Tensor, aten.div.Tensor, aten.div_.Tensor, aten.mul.Scalar),
    *(aten.neg.default, aten.clone.default, aten._to_copy.default),
)
"""Operations that map zeros to zeros."""


@dataclass(frozen=True, slots=True)
class Sum:
    """A module whose output is added to the running value."""

    name: str
    """Name of the largest module of the branch."""
    at: str
    """Name of the module around the branch whose forward computes the sum."""
    shape: tuple[int, ...]
    call: Literal["plain", "rich"]
    """As in `Block`, for the module whose output is added."""
    branch: Branch


def find_sums(model: nn.Module, flow: "Flow", skipped: Collection[str]) -> list[Sum]:
    """Find the branches of a network that are added outside of their own module.

    Args:
        model: Any network.
        flow: The record of a forward pass of the network.
        skipped: Modules that pass the zero-function test; branches inside or around them are
            skipped.
    """
    found = []
    for added in flow.sums:
        if not any(_nested(added.module, name) for name in skipped):
            one = _branch(model, flow, added)
            if one is not None:
                found.append(one)
    twice = {one.name for one in found if sum(one.name == other.name for other in found) > 1}
    return [one for one in found if one.name not in twice]


def _nested(name: str, other: str) -> bool:
    return name == other or is_inside(name, other) or is_inside(other, name)


@dataclass(kw_only=True, slots=True)
class _Usage(Usage):
    """How a module is called, and with which tensors."""

    entered: int
    """Number of the input."""
    shape: tuple[int, ...]
    """Shape of the input."""
    left: int = -1
    """Number of the first output."""
    same_shape: bool = False
    """Whether the first output has the shape of the input."""


@dataclass(frozen=True, slots=True)
class _Added:
    """A sum of the running value and the output of a module."""

    module: str
    stack: tuple[str, ...]
    """The modules whose forward was running."""
    branch: int
    """Number of the tensor that was added."""
    running: int
    """Numbers of the running value up to here, as bits."""


@dataclass
class Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]  # as all of these in torch
    """Numbers all tensor storages, and records from which others each was computed (as bits)."""

    calls: dict[str, _Usage] = field(default_factory=dict)
    sums: list[_Added] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: dict[int, tuple[StorageWeakRef, int]] = {}  # numbers by address
        self.past: list[int] = []  # of each number: those it was computed from
        self.readers: list[int] = []  # of each number: those computed from it
        self._running: list[int] = []  # of each number: the running values that it sums
        self._returned: dict[int, str] = {}  # module that returned a number
        self._stack: list[tuple[str, int]] = []  # modules that are running, and their inputs

    def number(self, tensor: Tensor) -> int:
        """Return the number of a tensor's storage; a storage at a freed address is a new one."""
        key = tensor.untyped_storage()._cdata
        known = self._known.get(key)
        if known is not None and not known[0].expired():  # type: ignore[no-untyped-call]
            return known[1]
        new = len(self.past)
        alive = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        self._known[key] = (alive, new)
        self.past.append(0)
        self.readers.append(0)
        self._running.append(1 << new)
        return new

    def enter(self, name: str, args: Args, kwargs: Kwargs) -> None:
        """Record how a module is called."""
        where = find_input(args, kwargs)
        x = None if where is None else args[where] if isinstance(where, int) else kwargs[where]
        self._stack.append((name, -1 if x is None else self.number(x)))
        if name in self.calls:
            self.calls[name].times += 1
            return
        self.calls[name] = _Usage(
            where=where,
            single=is_only_argument(where, args, kwargs),
            entered=self._stack[-1][1],
            shape=() if x is None else tuple(x.shape),
        )

    def leave(self, name: str, args: Args, kwargs: Kwargs, output: Any) -> None:  # noqa: ANN401
        """Record what a module returns."""
        entered = self._stack.pop()[1]
        first, known = first_tensor(output), self.calls[name]
        if first is None or type(output) not in (Tensor, nn.Parameter, tuple):
            return
        known.left, known.same_shape = self.number(first), tuple(first.shape) == known.shape
        known.repeats = repeated_arguments(output, args, kwargs)
        earlier = self._returned.get(known.left)
        if known.left != entered or (earlier is not None and is_inside(earlier, name)):
            self._returned[known.left] = name  # else it returns its input, as dropout does

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - an operation
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever it returns
        """Run an operation, and record which tensors the results are computed from."""
        given = tensors_of([args, dict(kwargs or {})])
        inputs = [self.number(tensor) for tensor in given]
        carried = [self._returned.get(number) for number in inputs]
        added = self._sum(func, given, inputs)
        output = func(*args, **(kwargs or {}))
        before = 0
        for number in inputs:
            before |= self.past[number] | 1 << number
        for tensor in tensors_of(output):
            number = self.number(tensor)
            self.past[number] |= before & ~(1 << number)
            for entering in inputs:
                if entering != number:
                    self.readers[entering] |= 1 << number
            if added is not None:
                self.sums.append(added)
                self._running[number] |= added.running
                self._returned.pop(number, None)
            elif func in SCALED and sum(name is not None for name in carried) == 1:
                self._returned[number] = next(name for name in carried if name is not None)
            elif number in inputs and func._schema.is_mutable:
                self._returned.pop(number, None)  # overwritten
        return output

    def _sum(self, func: Any, given: list[Tensor], inputs: list[int]) -> _Added | None:  # noqa: ANN401
        """Return the sum if an operation adds the output of a module to the running value."""
        if func not in SUMS:
            return None
        pairs = [(0, part) for part in range(1, len(inputs))]
        if len(inputs) == 2 and func in SUMS[:2]:  # each of the two may be the running value
            pairs.append((1, 0))
        for value, part in pairs:
            name, running = self._returned.get(inputs[part]), self._running[inputs[value]]
            if name is None or given[value].shape != given[part].shape:
                continue
            earlier = self.past[inputs[value]] | 1 << inputs[value]
            if self.past[inputs[part]] & running and not earlier >> self.calls[name].left & 1:
                return _Added(name, tuple(s for s, _ in self._stack), inputs[part], running)
        return None

    def only_for(self, number: int) -> int:
        """Return the numbers of tensors that are used only to compute this one, as bits."""
        only, past = 1 << number, self.past[number]
        for earlier in range(number - 1, -1, -1):
            if past >> earlier & 1 and self.readers[earlier] and not self.readers[earlier] & ~only:
                only |= 1 << earlier
        return only


def _branch(model: nn.Module, flow: Flow, added: _Added) -> Sum | None:
    """Return a branch with the replacements that remove it; None if it cannot be removed."""
    known = flow.calls[added.module]
    if known.times > 1 or known.where is None or not known.same_shape:
        return None
    replacements = [known.replaced(added.module, "zeros")]
    if not added.running >> known.entered & 1:  # the branch has other modules before this one
        only = flow.only_for(added.branch)
        for name, inner in model.named_modules():
            how = flow.calls.get(name)
            if how is None or how.left < 0 or not only >> how.left & 1 or how.times > 1:
                continue
            idle = (
                how.where is not None and how.same_shape and any(True for _ in inner.parameters())
            )
            if idle and not any(_nested(name, one.name) for one in replacements):
                replacements.append(how.replaced(name, "input"))
    parts = [model.get_submodule(one.name) for one in replacements]
    if not any(p.ndim > 1 for part in parts for p in part.parameters()):
        return None
    name = largest_module(model, replacements)
    at = next((s for s in reversed(added.stack) if s != added.module and is_inside(name, s)), "")
    form: Literal["plain", "rich"] = "plain" if replacements[0].single_input else "rich"
    return Sum(name, at, known.shape[1:], form, Branch(of=name, replacements=tuple(replacements)))
