"""Finds the residual branches inside residual blocks: y = x + f(x), then z = y + g(y).

With all matrices of a block at zero, the output of a module is replaced by a random tensor r. If
the block then returns x + c r, this output is added to the stream. If it returns c r, the module is
itself a residual block that the stream passes through.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerticket.batch import first_tensor, with_first
from layerticket.blocks.block import Block, Branch
from layerticket.blocks.probe import (
    Args,
    Call,
    Kwargs,
    Prober,
    Usage,
    find_input,
    first_argument,
    is_inside,
    is_only_argument,
    largest_module,
    random_values,
    repeated_arguments,
)
from layerticket.modules import in_eval_mode, preserved_random_state, reference_kernels, view_of
from layerticket.progress import told
from layerticket.surgery.remove import Replacement


@dataclass(frozen=True, slots=True)
class Part:
    """One branch of a block."""

    name: str
    """Name of its largest module."""
    branch: Branch


def find_parts(
    model: nn.Module, prober: Prober, blocks: tuple[Block, ...], passing: set[str]
) -> dict[str, list[Part]]:
    """Find the branches of each block, in the order of execution; none if it has only one.

    `passing` are the modules that pass the zero-function test. Cost: for each block about one pass
    of the block per module inside.
    """
    blocks = tuple(block for block in blocks if block.branch is None)
    searcher = _Searcher(blocks, passing, prober.identities)
    recorded = {name: prober.recorded[name] for name in prober.recorded if name in searcher.targets}
    view = in_eval_mode(view_of(model))
    with (
        preserved_random_state(0),
        torch.no_grad(),
        reference_kernels(),
        told("finding branches") as tell,
    ):
        for number, (name, call) in enumerate(recorded.items()):
            tell(number / len(recorded), name)
            module = view.get_submodule(name)
            searcher.parts[name] = searcher.split(name, module, call.with_input())
    return {block.name: list(searcher.expand(block.name)) for block in blocks}


@dataclass(kw_only=True, slots=True)
class _Usage(Usage):
    """How a module is called inside its block."""

    order: int
    shape: tuple[int, ...] | None
    """Shape of the first output; None if it is not a tensor, alone or in a tuple."""

    def replacement(self, name: str, output: Literal["input", "zeros"]) -> Replacement | None:
        """Return how the module is replaced; None if it cannot be."""
        if self.where is None or self.shape is None or self.times > 1:
            return None
        return self.replaced(name, output)


@dataclass(slots=True)
class _Searcher:
    """Finds the branches of blocks, and of blocks inside blocks."""

    blocks: tuple[Block, ...]
    passing: set[str]
    identities: set[str]
    """Names of normalizations and activations, which may follow an addition."""
    parts: dict[str, list[Part]] = field(default_factory=dict)

    @property
    def targets(self) -> set[str]:
        """The blocks, and the modules inside them that pass the zero-function test."""
        names = {block.name for block in self.blocks}
        return names | {p for p in self.passing if any(is_inside(p, name) for name in names)}

    def expand(self, name: str) -> Iterator[Part]:
        """Yield the branches of a block; a block inside it is replaced by its own branches."""
        parts = self.parts.get(name, [])
        if len(parts) < 2:
            return
        for part in parts:
            yield from list(self.expand(part.name)) or [part]

    def split(self, name: str, module: nn.Module, given: Call) -> list[Part]:
        """Find the branches of one module from a call of it."""
        inner = {n.removeprefix(f"{name}.") for n in self.identities if is_inside(n, name)}
        post_norm = any(b.post_norm for b in self.blocks if f"{name}.".startswith(f"{b.name}."))
        muted = muted_copy(module, inner if post_norm else set())
        calls = _calls(muted, given)
        x = given.x
        if not calls or not _near(response(muted, {}, given), x):
            return []
        r = torch.randn_like(x) + 1  # its sum is not zero, so it gives the factor c
        ends, through = self._ends(name, muted, calls, given, r)
        found = [(calls[n].order, _part(name, module, [one])) for n, one in through.items()]
        last = [  # an output that passes through a later end belongs to the branch of that end
            end
            for end in ends
            if not any(_hides(muted, end, later, given, r) for later in ends if later != end)
        ]
        if len(last) + len(through) < 2:
            return []
        for end in last:
            idle = [n for n in idle_modules(module, end, given) if n in calls]
            zeros = calls[end].replacement(end, "zeros")
            if zeros is not None:
                inputs = [calls[n].replacement(n, "input") for n in idle]
                replacements = [zeros, *(one for one in inputs if one is not None)]
                found.append((calls[end].order, _part(name, module, replacements)))
        return [part for _, part in sorted(found, key=lambda pair: pair[0])]

    def _ends(
        self,
        name: str,
        muted: nn.Module,
        calls: dict[str, _Usage],
        given: Call,
        r: Tensor,
    ) -> tuple[list[str], dict[str, Replacement]]:
        """Find modules whose output is added to the stream, and blocks that it passes through."""
        x = given.x
        ends: list[str] = []
        through: dict[str, Replacement] = {}
        for inner, how in calls.items():
            known = any(is_inside(inner, outer) for outer in (*ends, *through))
            if known or how.shape is None or how.times > 1 or math.prod(how.shape) != x.numel():
                continue
            output = response(muted, {inner: r.reshape(how.shape)}, given)
            own_block = f"{name}.{inner}" in self.passing
            if own_block and proportional(output, r):
                replacement = how.replacement(inner, "input")
                if replacement is not None:
                    through[inner] = replacement
            elif proportional(output - x, r):
                ends.append(inner)
        return ends, through


def _part(name: str, module: nn.Module, replacements: list[Replacement]) -> Part:
    """Build a branch, named after its largest module, with names of the whole network."""
    full = tuple(replace(one, name=f"{name}.{one.name}") for one in replacements)
    return Part(
        f"{name}.{largest_module(module, replacements)}", Branch(of=name, replacements=full)
    )


def _calls(muted: nn.Module, given: Call) -> dict[str, _Usage]:
    """Run the muted block once and record how its modules with parameters are called."""
    calls: dict[str, _Usage] = {}

    def watch(name: str, _: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> None:  # noqa: ANN401
        if name in calls:
            calls[name].times += 1
            return
        first, where = first_tensor(output), find_input(args, kwargs)
        usable = first is not None and type(output) in (Tensor, nn.Parameter, tuple)
        calls[name] = _Usage(
            order=len(calls),
            where=where,
            single=is_only_argument(where, args, kwargs),
            repeats=repeated_arguments(output, args, kwargs),
            shape=tuple(first.shape) if first is not None and usable else None,
        )

    with ExitStack() as hooks:
        for name, inner in muted.named_modules():
            if name and any(True for _ in inner.parameters()):
                hook = partial(watch, name)
                hooks.enter_context(inner.register_forward_hook(hook, with_kwargs=True))
        given.on(muted)
    names = [name for name, _ in muted.named_modules() if name in calls]
    return {name: calls[name] for name in names}  # outer modules first


def muted_copy(module: nn.Module, identities: set[str]) -> nn.Module:
    """Copy a module with all parameters zero, except its own scale vectors, which are one.

    A scale of the block itself multiplies a branch; at zero it would hide the branch. Modules in
    `identities` (normalizations, activations) return their input.
    """
    memo: dict[int, object] = {}
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point():
            vector = sum(size > 1 for size in parameter.shape) < 2
            value = float(vector and "." not in name and "bias" not in name)
            memo[id(parameter)] = nn.Parameter(torch.full_like(parameter, value))
    muted = in_eval_mode(copy.deepcopy(module, memo))
    for name in identities:
        muted.get_submodule(name).forward = first_argument
    return muted


@contextmanager
def replacing(module: nn.Module, outputs: Mapping[str, Tensor]) -> Iterator[None]:
    """Replace the first outputs of inner modules by tensors."""

    def substitute(value: Tensor, _: nn.Module, __: Any, output: Any) -> Any:  # noqa: ANN401
        first = first_tensor(output)
        assert first is not None
        return with_first(output, value.reshape(first.shape).clone())

    with ExitStack() as hooks:
        for name, value in outputs.items():
            hook = partial(substitute, value)
            hooks.enter_context(module.get_submodule(name).register_forward_hook(hook))
        yield


def response(module: nn.Module, outputs: Mapping[str, Tensor], given: Call) -> Tensor:
    """Return the first output of a block when inner modules return the given tensors."""
    with torch.no_grad(), replacing(module, outputs):
        output = first_tensor(given.on(module))
    assert output is not None
    return output


def idle_modules(module: nn.Module, end: str, given: Call) -> list[str]:
    """List the modules that have no effect when the inner module `end` returns zeros.

    Their parameters have no gradient, or zero gradients. Modules inside a listed one, and `end`
    itself, are left out.
    """
    memo: dict[int, object] = {
        id(p): nn.Parameter(random_values(p)) for p in module.parameters() if p.is_floating_point()
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
        nested = any(is_inside(name, other) for other in (end, *idle))
        if silent and name != end and not nested and not is_inside(end, name):
            idle.append(name)
    return idle


def _hides(muted: nn.Module, end: str, later: str, given: Call, r: Tensor) -> bool:
    """Whether zeros as the output of a later module remove the effect of an earlier one."""
    return _near(response(muted, {end: r, later: torch.zeros_like(r)}, given), given.x)


def _near(a: Tensor | None, b: Tensor) -> bool:
    return a is not None and a.shape == b.shape and torch.allclose(a.to(b.dtype), b, atol=1e-3)


def proportional(y: Tensor, r: Tensor) -> bool:
    """Whether y = c r for some c that is not zero; the order of entries may differ."""
    factor = y.sum() / r.sum()
    if y.numel() != r.numel() or not factor.abs() > 1e-3:
        return False
    return torch.allclose(y.flatten().sort()[0], (factor * r).flatten().sort()[0], atol=1e-2)
