"""Build the smaller network: remove blocks and branches, or set them to zero."""

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
    """A module of a branch, and how to replace it when the branch is removed."""

    name: str
    """Name, as in ``named_modules()``."""
    output: Literal["input", "zeros"]
    """`zeros`: nothing is added to the stream. `input`: the input is passed through."""
    argument: int | str
    """Position or name of the stream among the arguments of the call."""
    single_input: bool
    """Whether it is called with this tensor only, and returns one tensor."""
    repeats: tuple[int | str | None, ...] | None
    """For a returned tuple: for each entry after the first, the argument it equals, or None."""


class Removable(Protocol):
    """A removable part: a whole block, or one branch of it; see `blocks.block.Block`."""

    @property
    def name(self) -> str:
        """Name, as in ``named_modules()``."""

    @property
    def call(self) -> Literal["plain", "rich"]:
        """How a whole block is called, see `remove_block`."""

    @property
    def post_norm(self) -> bool:
        """Whether a layer follows its addition."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the removed modules, without their submodules."""

    @property
    def replacements(self) -> tuple[Replacement, ...]:
        """Replacements for a branch; empty for a whole block."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """A block known by name only; whether it is removable is not checked."""

    name: str
    call: Literal["plain", "rich"]
    post_norm: bool = False
    replacements: tuple[Replacement, ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """The block itself."""
        return (self.name,)


def removables(model: nn.Module, blocks: Iterable[Removable | str]) -> list[Removable]:
    """Return the blocks of a network, given as blocks or names, each once.

    For a name, the signature of the module's forward decides how it is called: with one tensor
    (`plain`), or, for entries of a list only, with more (`rich`).

    Raises:
        LayerticketError: If a block is not in the network, or it is unclear from its name how it
            is called.
    """
    if isinstance(blocks, str):
        raise LayerticketError(f"blocks is the text {blocks!r}; give a list: [{blocks!r}].")
    present = dict(model.named_modules())
    found: dict[str, Removable] = {}
    for block in blocks:
        if isinstance(block, str):
            if block not in present:
                composite = [n for n, module in present.items() if n and any(module.children())]
                raise unknown_name("block", block, composite)
            found[block] = _named(present, block)
        elif present.keys() >= {block.name, *block.modules}:
            found[block.name] = block
        else:
            raise LayerticketError(
                f"block {block.name!r} is not in this {type(model).__name__}; pass the blocks "
                "that find_blocks found in this network."
            )
    return list(found.values())


def _named(present: dict[str, nn.Module], name: str) -> Named:
    """Return a block by name, with how its forward is called and where it is."""
    taken = list(inspect.signature(present[name].forward).parameters.values())
    if len(taken) == 1 and taken[0].kind not in (taken[0].VAR_POSITIONAL, taken[0].VAR_KEYWORD):
        return Named(name=name, call="plain")
    holder = present[name.rpartition(".")[0]]
    if isinstance(holder, nn.Sequential):  # passes one tensor
        return Named(name=name, call="plain")
    if isinstance(holder, nn.ModuleList):
        return Named(name=name, call="rich")
    raise LayerticketError(
        f"it is unclear how block {name!r} is called: its forward takes "
        f"{', '.join(p.name for p in taken)}. Give the block that find_blocks found."
    )


def remove_blocks(model: nn.Module, blocks: Iterable[Removable | str]) -> nn.Module:
    """Return a new, smaller network without the blocks; `model` is not modified.

    The result has the caller's own class, keeps the names of all remaining parameters, has its
    own copy of their values, and does not depend on layerticket. In Hugging Face networks, layers
    are renumbered without gaps and the configuration is corrected, so that they can be saved,
    loaded and used for generation like any other; the names of later layers change, see
    `name_after_removal`.

    Args:
        model: The dense network.
        blocks: Blocks from `find_blocks`, e.g. ``found.named(selection.removed)``; or their
            names, which are not checked: only `find_blocks` tests if a module is removable.

    Raises:
        LayerticketError: If a block is not in the network, it is unclear how a block is called,
            or the network cannot be copied.

    Warns:
        UserWarning: If no configuration of a Hugging Face class describes the smaller network.
    """
    model = network_of(model)
    removed = removables(model, blocks)
    present = dict(model.named_modules())
    # Parameters of removed blocks are shared with the copy, not copied, until they are removed.
    dropped = [p for block in removed for n in block.modules for p in present[n].parameters()]
    small = copy_of(model, {id(p): p for p in dropped})
    entries = [b.name for b in removed if not b.replacements and is_entry(model, b.name)]
    for block in removed:
        if block.name in entries:
            take_out(small, block.name, "rich")
        else:
            remove_from(small, block)
    close_gaps(small, entries)
    make_valid(small, model, [block.name for block in removed if not block.replacements])
    _copy_shared(small, {id(p) for p in dropped})
    small.zero_grad(set_to_none=True)
    return small


def zero_blocks(model: nn.Module, blocks: Iterable[Removable | str]) -> nn.Module:
    """Return a copy of the network in which every parameter of the blocks is zero.

    It computes the same as the result of `remove_blocks`, at the cost of the dense network; tests
    compare the two.

    Raises:
        LayerticketError: If a normalization follows the addition of a block (post-norm), so that
            zeros would set its output to zero too, or a block cannot be removed.
    """
    model = network_of(model)
    zeroed = copy_of(model)
    for block in removables(model, blocks):
        # A branch that ends in zeros is added to the stream; the normalization after it stays.
        added = block.replacements and block.replacements[0].output == "zeros"
        if block.post_norm and not added:
            raise LayerticketError(
                f"block {block.name!r} is post-norm: with zeros it would output zeros, not its "
                "input. Use remove_blocks."
            )
        with torch.no_grad():
            for name in block.modules:
                inner = zeroed.get_submodule(name)
                make_plain(inner)  # a normalized weight cannot be zero
                for parameter in inner.parameters():
                    parameter.zero_()
    return zeroed


def remove_from(model: nn.Module, block: Removable) -> None:
    """Remove a block or a branch from a network, in place."""
    if block.replacements:
        cut_out(model, block.replacements)
    else:
        take_out(model, block.name, block.call)


def take_out(model: nn.Module, name: str, how: Literal["plain", "rich"]) -> None:
    """Remove one block from a network, in place.

    A `plain` block is replaced by ``nn.Identity``, so all names and indices stay. A `rich` block
    is deleted from its list; the other entries keep their names.
    """
    parent = model.get_submodule(name.rpartition(".")[0])
    key = name.rpartition(".")[2]
    if how == "plain":
        parent._modules[key] = nn.Identity()
    else:
        del parent._modules[key]


def cut_out(model: nn.Module, cuts: tuple[Replacement, ...]) -> None:
    """Remove one branch from a network, in place; names and indices stay.

    Modules called with one tensor become a PyTorch module without weights and almost without cost:
    the identity, or a threshold that is never reached and so gives zeros. The others become
    `Absent`.
    """
    for cut in cuts:
        parent = model.get_submodule(cut.name.rpartition(".")[0])
        parent._modules[cut.name.rpartition(".")[2]] = _substitute(cut)


def _substitute(cut: Replacement) -> nn.Module:
    if not cut.single_input:
        return Absent(cut)
    return nn.Identity() if cut.output == "input" else nn.Threshold(math.inf, 0.0)


class Absent(nn.Module):
    """Replaces a module that took several arguments or returned a tuple; has no weights.

    A network with such a module can be unpickled only where layerticket is installed; its
    ``state_dict`` does not contain it.
    """

    def __init__(self, cut: Replacement) -> None:
        super().__init__()
        self.output, self.argument, self.repeats = cut.output, cut.argument, cut.repeats

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as what it stands for
        """Return the input, or zeros of its shape, in the expected form."""

        def given(place: int | str | None) -> Any:  # noqa: ANN401 - whatever it is called with
            return args[place] if isinstance(place, int) else kwargs.get(place or "")

        x: Tensor = given(self.argument)
        y = x if self.output == "input" else torch.zeros_like(x)
        return y if self.repeats is None else (y, *(given(place) for place in self.repeats))

    def extra_repr(self) -> str:
        """Return the kind of output for ``print(model)``."""
        return f"output={self.output!r}"


def _copy_shared(small: nn.Module, shared: set[int]) -> None:
    """Copy parameters that a kept module shares with a removed block (tied weights)."""
    copies: dict[int, nn.Parameter] = {}
    for module in small.modules():
        for key, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in shared:
                fresh = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                module._parameters[key] = copies.setdefault(id(parameter), fresh)
