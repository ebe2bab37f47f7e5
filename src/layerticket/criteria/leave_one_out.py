"""Runs a network without each of its blocks in turn, and computes what lies before a block once.

No graph is traced: the network's own code runs every time, but module calls that ended before the
block's turn return a copy of what they returned in the whole network.
"""

import copy
import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layerticket.batch import Inputs, call, logits_of, tensors_of, with_first
from layerticket.blocks.block import Blocks
from layerticket.blocks.probe import find_input
from layerticket.errors import LayerticketError
from layerticket.modules import preserved_random_state, state_around, view_of
from layerticket.surgery.hugging_face import is_entry
from layerticket.surgery.remove import cut_out, take_out

logger = logging.getLogger(__name__)

Forward = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one forward pass gave."""

    logits: Tensor
    features: Tensor
    """What the last layer reads; the logits where no layer lies behind the blocks."""


@dataclass(slots=True)
class _Call:
    """One call of a module in the whole network."""

    name: str
    end: int = 0
    """Number of the first call that started after this one had ended."""
    saved: tuple[Any] | None = None
    """A copy of what it returned, where returning it again is all the call did."""


class _DivergedError(LayerticketError):
    """The network called other modules before a block than it did when it was whole."""


class LeaveOneOut:
    """A network that can be run without any one of its blocks; the model given is not modified.

    Cost: `full` one forward pass and the part of one behind the last block (to verify that the
    sharing is exact, bit for bit); `without` the part of one behind the block. Memory: the outputs
    of the modules outside of blocks, about one for each block; give fewer inputs to bound it.

    Calls that write into their inputs or return a part of them are repeated, not replayed. Where
    sharing is not exact (a network that draws random numbers, or keeps a state between modules),
    the whole network is run for every block, and the log says why.
    """

    def __init__(self, model: nn.Module, blocks: Blocks, inputs: Inputs) -> None:
        """Run the whole network once and keep what the runs without a block will share."""
        self._net = view_of(model)
        self._inputs = inputs
        # of a branch, the module whose output is added to the stream stands for all of it
        self._blocks = {block.modules[0]: block for block in blocks}
        self._ends = {block.name: block.modules[0] for block in blocks}
        self._calls: list[_Call] = []
        self._starts: dict[str, int] = {}
        """Number of the call that is a block's."""
        self._recording = True
        self._next = self._stop = 0
        self._head = self._idle = ""
        """The last layer; the block that lets its input through instead of being taken out."""
        self._features: Tensor | None = None
        for name, module in self._net.named_modules():
            if name and not any(name.startswith(f"{block}.") for block in self._blocks):
                self._watch(name, module)
        self.full = self._outcome()
        self._recording = False
        self.unshared = self._verify()
        """Why nothing is shared; empty where the prefix is."""
        self._report()

    def without(self, name: str) -> Outcome:
        """Run the network with the identity in place of one block, or zeros in that of a branch.

        A layer of a Hugging Face network stays in its place and lets its input through: its
        configuration says by place what kind of layer comes next.
        """
        name = self._ends[name]
        block = self._blocks[name]
        parent = self._net.get_submodule(name.rpartition(".")[0])
        children = dict(parent._modules)
        if block.branch is None and is_entry(self._net, name):
            self._idle = name
        elif block.branch is None:
            take_out(self._net, block.name, block.call)
        else:  # the rest of it is idle without its end
            cut_out(self._net, block.replacements[:1])
        try:
            if not self.unshared:
                try:
                    return self._run(self._starts[name])
                except _DivergedError as err:
                    self.unshared = str(err)
                    self._report()
            return self._run(0)
        finally:
            self._idle = ""
            parent._modules.clear()
            parent._modules.update(children)

    def _run(self, stop: int) -> Outcome:
        """Run the network; calls before the one numbered `stop` are replayed."""
        self._next, self._stop = 0, stop
        outcome = self._outcome()
        if self._next < self._stop:
            raise _DivergedError("without a block it calls fewer modules before that block")
        return outcome

    def _outcome(self) -> Outcome:
        self._features = None
        with preserved_random_state(0), torch.no_grad():
            logits = logits_of(call(self._net, self._inputs))
        return Outcome(logits, logits if self._features is None else self._features)

    def _verify(self) -> str:
        """Replay before the last block, with all blocks in place: the whole network must result."""
        if missing := [name for name in self._blocks if name not in self._starts]:
            return f"block {missing[0]!r} is not called on this batch"
        try:
            again = self._run(max(self._starts.values()))
        except _DivergedError as err:
            return str(err)
        same = torch.equal(again.logits, self.full.logits)
        if not (same and torch.equal(again.features, self.full.features)):
            return "replaying the modules before the last block gives another output"
        return ""

    def _report(self) -> None:
        if self.unshared:
            logger.warning(
                "running all of %s for every block: %s", type(self._net).__name__, self.unshared
            )

    def _watch(self, name: str, module: nn.Module) -> None:
        """Put a forward in front of the module's own that records, replays or lets pass."""
        own: Forward = module.forward
        weighted = any(p.ndim > 1 for p in module.parameters(recurse=False))

        @functools.wraps(own)
        def forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the module's
            if self._recording and name in self._blocks:
                self._head, self._features = "", None  # the last layer lies behind the blocks
            elif self._recording and weighted:
                self._head = name
            if name == self._head:
                floats = (t for t in tensors_of([args, kwargs]) if t.is_floating_point())
                self._features = next(floats, None)
            if self._recording:
                return self._record(name, own, args, kwargs)
            if self._next < self._stop:
                return self._replay(name, own, args, kwargs)
            output = own(*args, **kwargs)
            return _let_through(output, args, kwargs) if name == self._idle else output

        module.forward = forward

    def _record(self, name: str, own: Forward, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        number, this = len(self._calls), _Call(name)
        self._calls.append(this)
        if name in self._blocks:
            self._starts[name] = number
        inputs = tensors_of([args, kwargs])
        versions = [tensor._version for tensor in inputs]
        module = [self._net.get_submodule(name)]
        kept = state_around(module, args, kwargs)
        output = own(*args, **kwargs)
        this.end = len(self._calls)
        needed = len(self._starts) < len(self._blocks)  # a block is still to come
        untouched = versions == [tensor._version for tensor in inputs]
        untouched = untouched and kept == state_around(module, args, kwargs)
        if needed and untouched and _can_be_copied(output) and not _shares(output, inputs):
            this.saved = (copy.deepcopy(output),)
            if not any(number < start < this.end for start in self._starts.values()):
                for inner in self._calls[number + 1 : this.end]:
                    inner.saved = None  # never asked for: this call answers in their place
        return output

    def _replay(self, name: str, own: Forward, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        expected = self._calls[self._next]
        if expected.name != name:
            raise _DivergedError(f"without a block it calls {name!r} for {expected.name!r}")
        if expected.saved is not None and expected.end <= self._stop:
            self._next = expected.end
            return copy.deepcopy(expected.saved[0])
        self._next += 1
        return own(*args, **kwargs)


def _let_through(output: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401 - as the module's
    """Return a module's output with its input in the place of the first tensor."""
    where = find_input(args, kwargs)
    assert where is not None
    x = args[where] if isinstance(where, int) else kwargs[where]
    return with_first(output, x)


def _can_be_copied(tree: Any) -> bool:  # noqa: ANN401 - whatever a module returns
    """Tell whether the output is made of tensors and plain values, without a state of its own."""
    if isinstance(tree, Mapping):
        return all(_can_be_copied(value) for value in tree.values())
    if isinstance(tree, (tuple, list)):
        return all(_can_be_copied(value) for value in tree)
    return tree is None or isinstance(tree, (Tensor, str, int, float, bool))


def _shares(output: Any, inputs: list[Tensor]) -> bool:  # noqa: ANN401
    """Tell whether the output is, or looks into, an input."""
    memory = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    return any(tensor.untyped_storage().data_ptr() in memory for tensor in tensors_of(output))
