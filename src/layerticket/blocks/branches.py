"""Finds the residual branches inside residual blocks: y = x + f(x), then z = y + g(y).

Two kinds are told apart by putting a random tensor r in the place of what a module returns, with
all matrices of the block at zero: where the block then returns x + c r, the module's output is
added to the stream; where it returns c r, the module is a residual block of its own that the stream
runs through.
"""

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerticket.batch import Inputs, call, first_tensor, with_first
from layerticket.blocks.block import Block, Branch
from layerticket.blocks.norms import find_norms, find_pointwise
from layerticket.blocks.probe import Args, Call, Kwargs, Seen, find_input, first_argument, lively
from layerticket.modules import in_eval_mode, preserved_random_state, reference_kernels, view_of
from layerticket.progress import told
from layerticket.surgery.remove import Replacement


@dataclass(frozen=True, slots=True)
class Part:
    """One branch of a block."""

    name: str
    """The module of it that holds most parameters."""
    branch: Branch


def find_parts(
    model: nn.Module, example: Inputs, blocks: tuple[Block, ...], passing: set[str]
) -> dict[str, list[Part]]:
    """Find the branches of each block, in the order of execution; none if it has only one.

    `passing` are the modules that pass the zero-function test. Cost: a forward pass of the network,
    and for each block about one of it per module inside.
    """
    blocks = tuple(block for block in blocks if block.branch is None)
    searcher = _Searcher(blocks, passing)
    with preserved_random_state(0):
        searcher.unseen = find_norms(model, example) | find_pointwise(model)
        view, recorder = in_eval_mode(view_of(model)), in_eval_mode(view_of(model))
        for name in searcher.wanted:
            hook = searcher.visit(name)
            recorder.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True)
        with torch.no_grad(), reference_kernels(), told("finding branches") as tell:
            call(recorder, example)
            for number, (name, seen) in enumerate(searcher.seen.items()):
                tell(number / len(searcher.seen), name)
                searcher.split(name, view.get_submodule(name), seen.call())
    return {block.name: list(searcher.expand(block.name)) for block in blocks}


@dataclass(slots=True)
class _Called:
    """How a module was called inside its block."""

    order: int
    where: int | str | None
    alone: bool
    repeats: tuple[int | str | None, ...] | None
    shape: tuple[int, ...] | None
    """Shape of the first output; None: neither a tensor nor a tuple that begins with one."""
    times: int = 1

    def cut(self, name: str, output: Literal["input", "zeros"]) -> Replacement | None:
        """Say how the module is replaced, if it can be."""
        if self.where is None or self.shape is None or self.times > 1:
            return None
        alone = self.alone and self.repeats is None
        return Replacement(
            name=name,
            output=output,
            argument=self.where,
            single_input=alone,
            repeats=self.repeats,
        )


@dataclass(slots=True)
class _Searcher:
    """Visits the blocks, and the blocks within blocks, while the network runs once."""

    blocks: tuple[Block, ...]
    passing: set[str]
    unseen: set[str] = field(default_factory=set)
    """Names of normalizations and activations, which may stand behind an addition."""
    seen: dict[str, Seen] = field(default_factory=dict)
    parts: dict[str, list[Part]] = field(default_factory=dict)

    @property
    def wanted(self) -> set[str]:
        """The blocks, and what passes the zero-function test inside of them."""
        names = {block.name for block in self.blocks}
        return names | {p for p in self.passing if any(p.startswith(f"{n}.") for n in names)}

    def visit(self, name: str) -> Any:  # noqa: ANN401 - a hook
        """Return a hook that writes down how one module is called."""

        def hook(module: nn.Module, args: Args, kwargs: Kwargs) -> None:
            where = find_input(args, kwargs)
            if where is not None and name not in self.seen:
                self.seen[name] = Seen.of(module, where, args, kwargs)

        return hook

    def split(self, name: str, module: nn.Module, given: Call) -> None:
        """Find the branches of one module, given how it is called."""
        self.parts[name] = self._split(name, module, given)

    def expand(self, name: str) -> Iterator[Part]:
        """List the branches of a block; a block within it is replaced by its own branches."""
        parts = self.parts.get(name, [])
        if len(parts) < 2:
            return
        for part in parts:
            inner = list(self.expand(part.name)) if part.name in self.parts else []
            yield from inner or [part]

    def _split(self, name: str, module: nn.Module, given: Call) -> list[Part]:
        """Find the branches of one module, given how it is called."""
        unseen = {n.removeprefix(f"{name}.") for n in self.unseen if n.startswith(f"{name}.")}
        post_norm = any(b.post_norm for b in self.blocks if f"{name}.".startswith(f"{b.name}."))
        muted = muted_copy(module, unseen if post_norm else set())
        calls = _calls(muted, given)
        x = given.x
        if not calls or not _near(response(muted, {}, given), x):
            return []
        r = torch.randn_like(x) + 1  # its sum tells a factor
        ends, through = self._ends(name, muted, calls, given, r)
        found = [(calls[n].order, _part(name, module, [c])) for n, c in through.items()]
        last = [
            end
            for end in ends
            if not any(_hides(muted, end, later, given, r) for later in ends if later != end)
        ]
        if len(last) + len(through) < 2:
            return []
        for end in last:
            idle = [n for n in idle_modules(module, end, given) if n in calls]
            cuts = [calls[end].cut(end, "zeros"), *(calls[n].cut(n, "input") for n in idle)]
            if cuts[0] is not None:
                kept = [cut for cut in cuts if cut is not None]
                found.append((calls[end].order, _part(name, module, kept)))
        return [part for _, part in sorted(found, key=lambda pair: pair[0])]

    def _ends(
        self,
        name: str,
        muted: nn.Module,
        calls: dict[str, _Called],
        given: Call,
        r: Tensor,
    ) -> tuple[list[str], dict[str, Replacement]]:
        """Find modules whose output is added to the stream, and blocks the stream runs through."""
        x = given.x
        ends: list[str] = []
        through: dict[str, Replacement] = {}
        for inner, how in calls.items():
            inside = any(inner.startswith(f"{n}.") for n in (*ends, *through))
            if inside or how.shape is None or how.times > 1 or math.prod(how.shape) != x.numel():
                continue
            output = response(muted, {inner: r.reshape(how.shape)}, given)
            own_block = f"{name}.{inner}" in self.passing
            if own_block and proportional(output, r):
                cut = how.cut(inner, "input")
                if cut is not None:
                    through[inner] = cut
            elif proportional(output - x, r):
                ends.append(inner)
        return ends, through


def _part(name: str, module: nn.Module, cuts: list[Replacement]) -> Part:
    """Name a branch by its largest module; names become those in the whole network."""
    sizes = [sum(p.numel() for p in module.get_submodule(cut.name).parameters()) for cut in cuts]
    full = tuple(replace(cut, name=f"{name}.{cut.name}") for cut in cuts)
    return Part(full[sizes.index(max(sizes))].name, Branch(of=name, replacements=full))


def _calls(muted: nn.Module, given: Call) -> dict[str, _Called]:
    """Run the muted block once and write down how the modules with parameters are called."""
    calls: dict[str, _Called] = {}

    def watch(name: str) -> Any:  # noqa: ANN401 - a hook
        def hook(_: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> None:  # noqa: ANN401
            if name in calls:
                calls[name].times += 1
                return
            first, where = first_tensor(output), find_input(args, kwargs)
            usable = first is not None and type(output) in (Tensor, nn.Parameter, tuple)
            given_to: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
            calls[name] = _Called(
                order=len(calls),
                where=where,
                alone=where == 0 and len(args) == 1 and not kwargs,
                repeats=_repeats(output, given_to) if type(output) is tuple else None,
                shape=tuple(first.shape) if first is not None and usable else None,
            )

        return hook

    handles = [
        inner.register_forward_hook(watch(name), with_kwargs=True)
        for name, inner in muted.named_modules()
        if name and any(True for _ in inner.parameters())
    ]
    given.on(muted)
    for handle in handles:
        handle.remove()
    names = [name for name, _ in muted.named_modules() if name in calls]
    return {name: calls[name] for name in names}  # outer modules first


def _repeats(
    output: tuple[Any, ...], arguments: list[tuple[int | str, Any]]
) -> tuple[int | str | None, ...]:
    """Tell which argument each entry of a tuple after the first is, if any."""
    return tuple(
        next((place for place, value in arguments if value is entry and entry is not None), None)
        for entry in output[1:]
    )


def muted_copy(module: nn.Module, passed: set[str]) -> nn.Module:
    """Copy a module with all parameters at zero, but scales of its own at one.

    A scale the block owns itself multiplies what a branch gives, and would silence it. Modules
    that are `passed` (normalizations, activations) return their input.
    """
    memo: dict[int, object] = {}
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point():
            vector = sum(size > 1 for size in parameter.shape) < 2
            value = float(vector and "." not in name and "bias" not in name)
            memo[id(parameter)] = nn.Parameter(torch.full_like(parameter, value))
    muted = in_eval_mode(copy.deepcopy(module, memo))
    for name in passed:
        muted.get_submodule(name).forward = first_argument
    return muted


@contextlib.contextmanager
def replacing(module: nn.Module, outputs: Mapping[str, Tensor]) -> Iterator[None]:
    """Put tensors in the place of what modules inside return first."""

    def speak(value: Tensor) -> Any:  # noqa: ANN401 - a hook
        def hook(_: nn.Module, __: Any, output: Any) -> Any:  # noqa: ANN401
            first = first_tensor(output)
            assert first is not None
            return with_first(output, value.reshape(first.shape).clone())

        return hook

    handles = [module.get_submodule(n).register_forward_hook(speak(v)) for n, v in outputs.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def response(module: nn.Module, outputs: Mapping[str, Tensor], given: Call) -> Tensor:
    """Return what a block returns first when modules inside return the tensors given."""
    with torch.no_grad(), replacing(module, outputs):
        output = first_tensor(given.on(module))
    assert output is not None
    return output


def idle_modules(module: nn.Module, end: str, given: Call) -> list[str]:
    """List the modules whose parameters no longer matter when a module inside returns zeros.

    They are those whose parameters have no gradient, or zero; modules inside of another one that
    is listed, and `end` itself, are left out.
    """
    memo: dict[int, object] = {
        id(p): nn.Parameter(lively(p)) for p in module.parameters() if p.is_floating_point()
    }
    alive = in_eval_mode(copy.deepcopy(module, memo))
    x = given.x
    with torch.enable_grad(), replacing(alive, {end: torch.zeros_like(x)}):
        output = first_tensor(given.on(alive))
        assert output is not None
        if output.requires_grad:
            torch.autograd.backward((output * torch.randn_like(output)).sum())
    idle: list[str] = []
    for name, inner in alive.named_modules():
        own = list(inner.parameters())
        silent = own and all(p.grad is None or not p.grad.any() for p in own)
        nested = any(name.startswith(f"{other}.") for other in (end, *idle))
        if silent and name != end and not nested and not end.startswith(f"{name}."):
            idle.append(name)
    return [name for name in idle if name]


def _hides(muted: nn.Module, end: str, later: str, given: Call, r: Tensor) -> bool:
    """Tell whether a second module that is put to zero leaves nothing of what the first gave."""
    given_back = response(muted, {end: r, later: torch.zeros_like(r)}, given)
    return _near(given_back, given.x)


def _near(a: Tensor | None, b: Tensor) -> bool:
    return a is not None and a.shape == b.shape and torch.allclose(a.to(b.dtype), b, atol=1e-3)


def proportional(y: Tensor, r: Tensor) -> bool:
    """Tell whether y = c r for some c that is not zero, the entries perhaps in another order."""
    factor = y.sum() / r.sum()
    if y.numel() != r.numel() or not factor.abs() > 1e-3:
        return False
    return torch.allclose(y.flatten().sort()[0], (factor * r).flatten().sort()[0], atol=1e-2)
