"""Builds the smaller network: blocks and branches cut out, or set to zero."""

import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from layerticket.errors import LayerticketError, unknown_name
from layerticket.modules import copy_of, make_plain, network_of
from layerticket.surgery.hugging_face import close_gaps, is_entry, make_valid


@dataclass(frozen=True, kw_only=True, slots=True)
class Replacement:
    """A module of a branch, and what stands in its place when the branch is gone."""

    name: str
    """As in ``named_modules()``."""
    output: Literal["input", "zeros"]
    """`zeros`: nothing is added to the stream. `input`: what enters passes through."""
    argument: int | str
    """Which argument of the call the stream is."""
    single_input: bool
    """Whether it is called with that tensor and nothing else, and returns one tensor."""
    repeats: tuple[int | str | None, ...] | None
    """Where it returns a tuple: for each entry after the first, the argument that it is or None."""


class Removable(Protocol):
    """What can be removed: a block as a whole, or one branch of it; see `blocks.block.Block`."""

    @property
    def name(self) -> str:
        """As in ``named_modules()``."""

    @property
    def call(self) -> Literal["plain", "rich"]:
        """How a whole block is called, see `take_out`."""

    @property
    def post_norm(self) -> bool:
        """Whether something stands behind its addition."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the modules that go, each without its parts."""

    @property
    def replacements(self) -> tuple[Replacement, ...]:
        """What stands in the place of a branch; empty for a whole block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """A block that is known by its name alone; that it can go is taken on trust."""

    name: str
    call: Literal["plain", "rich"]
    post_norm: bool = False
    replacements: tuple[Replacement, ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """The block itself."""
        return (self.name,)


def removables(model: nn.Module, blocks: Iterable[Removable | str]) -> list[Removable]:
    """List blocks of a network that are given as such or by name, each once.

    Of a name, the signature of the module's forward tells how it is called: with one tensor
    (`plain`), or with more, which only an entry of a list can be (`rich`).

    Raises:
        LayerticketError: If a block is not in the network, or its name does not tell how it is
            called.
    """
    if isinstance(blocks, str):
        raise LayerticketError(f"blocks is the text {blocks!r}; give a list: [{blocks!r}].")
    present = dict(model.named_modules())
    found: dict[str, Removable] = {}
    for block in blocks:
        name = block if isinstance(block, str) else block.name
        if isinstance(block, str) and name not in present:
            raise unknown_name("block", name, [n for n in present if n])
        if name not in present or any(part not in present for part in _parts(block)):
            raise LayerticketError(
                f"block {name!r} is not in this {type(model).__name__}; pass the blocks "
                "that find_blocks found in this very network."
            )
        found[name] = _named(present, name) if isinstance(block, str) else block
    return list(found.values())


def _parts(block: Removable | str) -> tuple[str, ...]:
    return () if isinstance(block, str) else block.modules


def _named(present: dict[str, nn.Module], name: str) -> Named:
    """Describe a block by how its forward may be called and where it stands."""
    taken = list(inspect.signature(present[name].forward).parameters.values())
    if len(taken) == 1 and taken[0].kind not in (taken[0].VAR_POSITIONAL, taken[0].VAR_KEYWORD):
        return Named(name=name, call="plain")
    holder = present[name.rpartition(".")[0]]
    if isinstance(holder, nn.Sequential):  # which gives one tensor
        return Named(name=name, call="plain")
    if isinstance(holder, nn.ModuleList):
        return Named(name=name, call="rich")
    raise LayerticketError(
        f"the name {name!r} alone does not tell how the block is called: its forward takes "
        f"{', '.join(p.name for p in taken)}. Give the block that find_blocks found."
    )


def remove_blocks(model: nn.Module, blocks: Iterable[Removable | str]) -> nn.Module:
    """Return a new, really smaller network without the blocks; `model` is not modified.

    The result is of the caller's own class, keeps the names of all parameters that remain,
    holds its own copy of their values, and needs nothing of layerticket. Networks of Hugging
    Face's library have their layers numbered without gaps and their configuration corrected, so
    that they can be saved, loaded and generated from like any other of their class; the names of
    layers behind a removed one move, see `name_after_removal`.

    Args:
        model: The dense network.
        blocks: Blocks `find_blocks` found in it, e.g. ``found.named(selection.removed)``; or their
            names, which are taken on trust: whether a module can go is for `find_blocks` to say.

    Raises:
        LayerticketError: If a block is not in the network, a name does not tell how the block is
            called, or the network cannot be copied.

    Warns:
        UserWarning: If no configuration of a Hugging Face class describes the smaller network.
    """
    model = network_of(model)
    removed = removables(model, blocks)
    present = dict(model.named_modules())
    # Parameters of removed blocks are shared with the copy until they are dropped from it,
    # so that they are never duplicated.
    going = [p for block in removed for n in block.modules for p in present[n].parameters()]
    small = copy_of(model, {id(p): p for p in going})
    entries = [b.name for b in removed if not b.replacements and is_entry(model, b.name)]
    for block in removed:
        if block.name in entries:
            take_out(small, block.name, "rich")
        else:
            remove_from(small, block)
    close_gaps(small, entries)
    make_valid(small, model, [block.name for block in removed if not block.replacements])
    _own(small, {id(p) for p in going})
    small.zero_grad(set_to_none=True)
    return small


def zero_blocks(model: nn.Module, blocks: Iterable[Removable | str]) -> nn.Module:
    """Return a copy of the network in which every parameter of the blocks is zero.

    It computes what `remove_blocks` computes, at the full cost: an oracle for tests, and the
    reason why masks alone save nothing.

    Raises:
        LayerticketError: If a block ends in a normalization (post-norm), which zeros would mute, or
            as `remove_blocks` does.
    """
    model = network_of(model)
    zeroed = copy_of(model)
    for block in removables(model, blocks):
        if block.post_norm and not _ends_in_zeros(block):
            raise LayerticketError(
                f"block {block.name!r} is post-norm; zeros would mute its input."
            )
        with torch.no_grad():
            for name in block.modules:
                inner = zeroed.get_submodule(name)
                make_plain(inner)  # a normalized weight cannot be zero
                for parameter in inner.parameters():
                    parameter.zero_()
    return zeroed


def remove_from(model: nn.Module, block: Removable) -> None:
    """Remove a block or a branch from a network the caller may change."""
    if block.replacements:
        cut_out(model, block.replacements)
    else:
        take_out(model, block.name, block.call)


def take_out(model: nn.Module, name: str, how: Literal["plain", "rich"]) -> None:
    """Remove one block from a network the caller may change.

    A `plain` block is replaced by ``nn.Identity``, so every name and index stays. A `rich` one
    is deleted from its list; the other entries keep their names.
    """
    parent = model.get_submodule(name.rpartition(".")[0])
    key = name.rpartition(".")[2]
    if how == "plain":
        parent._modules[key] = nn.Identity()
    else:
        del parent._modules[key]


def cut_out(model: nn.Module, cuts: tuple[Replacement, ...]) -> None:
    """Remove one branch from a network the caller may change; names and indices stay.

    Modules called with one tensor become a part of PyTorch that has no weights and costs next to
    nothing: the identity, or a threshold that nothing reaches and so gives zeros. The others
    become `Absent`.
    """
    for cut in cuts:
        parent = model.get_submodule(cut.name.rpartition(".")[0])
        parent._modules[cut.name.rpartition(".")[2]] = _substitute(cut)


def _substitute(cut: Replacement) -> nn.Module:
    if not cut.single_input:
        return Absent(cut)
    return nn.Identity() if cut.output == "input" else nn.Threshold(math.inf, 0.0)


class Absent(nn.Module):
    """Stands for a module that took further arguments or returned a tuple; has no weights.

    A network that holds one can be pickled as a whole only for readers that have layerticket;
    its ``state_dict`` is free of it.
    """

    def __init__(self, cut: Replacement) -> None:
        super().__init__()
        self.output, self.argument, self.repeats = cut.output, cut.argument, cut.repeats

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as what it stands for
        """Return the input or zeros of its shape, in the form that is expected."""

        def given(place: int | str | None) -> Any:  # noqa: ANN401 - whatever it is called with
            return args[place] if isinstance(place, int) else kwargs.get(place or "")

        x: Tensor = given(self.argument)
        y = x if self.output == "input" else torch.zeros_like(x)
        return y if self.repeats is None else (y, *(given(place) for place in self.repeats))

    def extra_repr(self) -> str:
        """Tell what it gives."""
        return f"output={self.output!r}"


def _ends_in_zeros(block: Removable) -> bool:
    """Tell whether what goes is added to the stream, so that a normalization behind it stays."""
    return bool(block.replacements) and block.replacements[0].output == "zeros"


def _own(small: nn.Module, shared: set[int]) -> None:
    """Copy parameters that a kept module shares with a removed block (tied weights)."""
    copies: dict[int, nn.Parameter] = {}
    for module in small.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in shared:
                fresh = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                module._parameters[key] = copies.setdefault(id(parameter), fresh)
