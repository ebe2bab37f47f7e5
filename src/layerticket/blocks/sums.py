"""Finds branches whose sum stands outside of them: ``x = x + b(x)`` in a loop over modules b.

The network runs once while every operation on tensors is watched. Where two tensors of one shape
are added, and one of them is what a module returned and was computed from the other, the other is
the running value and the module a branch: without it the sum is the running value.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from layerticket.batch import Inputs, call, first_tensor, tensors_of
from layerticket.blocks.block import Branch
from layerticket.blocks.probe import Args, Kwargs, find_input
from layerticket.modules import in_eval_mode, preserved_random_state, reference_kernels, view_of
from layerticket.surgery.remove import Replacement

aten = torch.ops.aten
SUMS = (aten.add.Tensor, aten.add_.Tensor, aten.addcmul.default, aten.addcmul_.default)
SCALED = (
    *(aten.mul.Tensor, aten.mul_.Tensor, aten.div.Tensor, aten.div_.Tensor, aten.mul.Scalar),
    *(aten.neg.default, aten.clone.default, aten._to_copy.default),
)
"""Operations that leave zeros what they are."""


@dataclass(frozen=True, slots=True)
class Sum:
    """A module whose output is added to the running value."""

    name: str
    """The module of the branch that holds most parameters."""
    at: str
    """The module in whose forward the sum stands, that holds the branch."""
    shape: tuple[int, ...]
    branch: Branch


def find_sums(model: nn.Module, example: Inputs, passed_over: Iterable[str]) -> list[Sum]:
    """Find the branches of a network whose sum stands outside of them.

    Args:
        model: Any network; not modified.
        example: Inputs to call it on.
        passed_over: Modules that pass the zero-function test; no branch is looked for inside of
            them nor around them.

    Cost: one forward pass, watched operation by operation.
    """
    view, over = in_eval_mode(view_of(model)), list(passed_over)
    flow = _Flow()
    for name, module in view.named_modules():
        module.register_forward_pre_hook(flow.enter(name), with_kwargs=True)
        module.register_forward_hook(flow.leave(name), with_kwargs=True)
    with preserved_random_state(0), torch.no_grad(), reference_kernels(), flow:
        call(view, example)
    found = []
    for added in flow.sums:
        beside = not any(_related(added.module, name) for name in over)
        one = _branch(view, flow, added) if beside else None
        if one is not None:
            found.append(one)
    twice = {one.name for one in found if sum(one.name == other.name for other in found) > 1}
    return [one for one in found if one.name not in twice]


def _related(name: str, other: str) -> bool:
    return f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.")


@dataclass(slots=True)
class _Called:
    """How a module was called."""

    where: int | str | None
    single: bool
    entered: int
    """Number of the tensor that entered."""
    shape: tuple[int, ...]
    """Its shape."""
    repeats: tuple[int | str | None, ...] | None = None
    left: int = -1
    """Number of the tensor it returned first."""
    same_shape: bool = False
    times: int = 1


@dataclass(frozen=True, slots=True)
class _Added:
    """A sum of the running value and what a module returned."""

    module: str
    stack: tuple[str, ...]
    """The modules that were being called."""
    branch: int
    """Number of the tensor that was added."""
    running: int
    """Numbers of the running value so far, as bits."""


@dataclass
class _Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]  # as all of these in torch
    """Numbers every storage, and knows from which others each was computed (as bits)."""

    calls: dict[str, _Called] = field(default_factory=dict)
    sums: list[_Added] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: dict[int, tuple[StorageWeakRef, int]] = {}
        self.past: list[int] = []
        self.readers: list[int] = []
        self._running: list[int] = []
        self._returned: dict[int, str] = {}
        self._stack: list[tuple[str, int]] = []

    def number(self, tensor: Tensor) -> int:
        """Return the number of a tensor's storage; a storage in the place of a freed one is new."""
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

    def enter(self, name: str) -> Callable[..., None]:
        """Return a hook that writes down how a module is called."""

        def hook(_: nn.Module, args: Args, kwargs: Kwargs) -> None:
            where = find_input(args, kwargs)
            x = None if where is None else args[where] if isinstance(where, int) else kwargs[where]
            self._stack.append((name, -1 if x is None else self.number(x)))
            if name in self.calls:
                self.calls[name].times += 1
                return
            self.calls[name] = _Called(
                where=where,
                single=where == 0 and len(args) == 1 and not kwargs,
                entered=self._stack[-1][1],
                shape=() if x is None else tuple(x.shape),
            )

        return hook

    def leave(self, name: str) -> Callable[..., None]:
        """Return a hook that writes down what a module returns."""

        def hook(_: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> None:  # noqa: ANN401
            entered = self._stack.pop()[1]
            first, known = first_tensor(output), self.calls[name]
            if first is None or type(output) not in (Tensor, nn.Parameter, tuple):
                return
            known.left, known.same_shape = self.number(first), tuple(first.shape) == known.shape
            if type(output) is tuple:
                given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
                known.repeats = tuple(
                    next((p for p, v in given if v is entry and entry is not None), None)
                    for entry in output[1:]
                )
            earlier = self._returned.get(known.left)
            if known.left != entered or (earlier is not None and _holds(name, earlier)):
                self._returned[known.left] = name  # else it only lets through, as dropout does

        return hook

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - an operation
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever it returns
        """Run an operation, and note what was computed from what."""
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
        """Tell whether an operation adds what a module returned to the running value."""
        if func not in SUMS:
            return None
        pairs = [(0, part) for part in range(1, len(inputs))]
        if len(inputs) == 2 and func in SUMS[:2]:  # either may be the running value
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
        """Return the numbers that are read for this one alone, as bits."""
        only, past = 1 << number, self.past[number]
        for earlier in range(number - 1, -1, -1):
            if past >> earlier & 1 and self.readers[earlier] and not self.readers[earlier] & ~only:
                only |= 1 << earlier
        return only


def _branch(view: nn.Module, flow: _Flow, added: _Added) -> Sum | None:
    """Say how a branch is taken out; None where it cannot be."""
    known = flow.calls[added.module]
    if known.times > 1 or known.where is None or not known.same_shape:
        return None
    cuts = [_cut(added.module, "zeros", known)]
    if not added.running >> known.entered & 1:  # something lies between the value and the branch
        only = flow.only_for(added.branch)
        for name, inner in view.named_modules():
            how = flow.calls.get(name)
            if how is None or how.left < 0 or not only >> how.left & 1 or how.times > 1:
                continue
            idle = (
                how.where is not None and how.same_shape and any(True for _ in inner.parameters())
            )
            if idle and not any(_related(name, cut.name) for cut in cuts):
                cuts.append(_cut(name, "input", how))
    if not any(p.ndim > 1 for cut in cuts for p in view.get_submodule(cut.name).parameters()):
        return None
    sizes = [sum(p.numel() for p in view.get_submodule(cut.name).parameters()) for cut in cuts]
    name = cuts[sizes.index(max(sizes))].name
    at = next((s for s in reversed(added.stack) if s != added.module and _holds(s, name)), "")
    return Sum(name, at, known.shape[1:], Branch(of=name, replacements=tuple(cuts)))


def _holds(outer: str, name: str) -> bool:
    return outer == "" or name.startswith(f"{outer}.")


def _cut(name: str, output: Any, how: _Called) -> Replacement:  # noqa: ANN401 - "zeros" or "input"
    assert how.where is not None
    return Replacement(
        name=name,
        output=output,
        argument=how.where,
        single_input=how.single and how.repeats is None,
        repeats=how.repeats,
    )
