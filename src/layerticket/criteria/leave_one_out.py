"""Run a network without each of its blocks in turn; compute the part before a block only once.

The network's own code runs every time, without tracing. Module calls that ended before the removed
block are not computed again: they return a copy of their output in the whole network.
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
    """Outputs of one forward pass."""

    logits: Tensor
    features: Tensor
    """Input of the last layer; the logits if no layer follows the blocks."""


@dataclass(slots=True)
class _Call:
    """One call of a module in the whole network."""

    name: str
    end: int = 0
    """Number of the first call that started after this one had ended."""
    saved: tuple[Any] | None = None
    """A copy of its output; None if it must be computed again, or is not needed."""


class _DivergedError(LayerticketError):
    """Before a block, the network called other modules than in the whole network."""


class LeaveOneOut:
    """A network that can be run without any one of its blocks; the model is not modified.

    Cost of construction: one forward pass, and the layers after the last block once more (to verify
    that reuse is exact, bit for bit). Cost of `without`: the layers after the block. Memory: the
    outputs of the modules outside of blocks, about one per block; give fewer inputs to need less.

    Calls that write into their inputs, or return a part of them, are repeated. If reuse is not
    exact (the network draws random numbers, or keeps a state between modules), the whole network is
    run for every block, and a warning is logged.
    """

    def __init__(self, model: nn.Module, blocks: Blocks, inputs: Inputs) -> None:
        """Run the whole network once and store the outputs to reuse."""
        self._net = view_of(model)
        self._inputs = inputs
        # a branch is represented by the module whose output is added to the stream
        self._blocks = {block.modules[0]: block for block in blocks}
        self._ends = {block.name: block.modules[0] for block in blocks}
        self._calls: list[_Call] = []
        self._starts: dict[str, int] = {}
        """Number of the call of each block."""
        self._recording = True
        self._next = self._stop = 0
        self._last_layer = self._bypassed = ""
        """The last layer; the block that currently returns its input."""
        self._features: Tensor | None = None
        for name, module in self._net.named_modules():
            if name and not any(name.startswith(f"{block}.") for block in self._blocks):
                self._watch(name, module)
        self.full = self._outcome()
        self._recording = False
        self.not_reused = self._verify()
        """Why no output is reused; empty if outputs are reused."""
        self._report()

    def without(self, name: str) -> Outcome:
        """Run the network with the identity in place of a block, or zeros in place of a branch.

        A layer of a Hugging Face network stays in its list and returns its input, because the
        configuration gives the kinds of the layers by their position.
        """
        name = self._ends[name]
        block = self._blocks[name]
        parent = self._net.get_submodule(name.rpartition(".")[0])
        children = dict(parent._modules)
        if block.branch is None and is_entry(self._net, name):
            self._bypassed = name
        elif block.branch is None:
            take_out(self._net, block.name, block.call)
        else:  # the other modules of a branch have no effect without its last one
            cut_out(self._net, block.replacements[:1])
        try:
            if not self.not_reused:
                try:
                    return self._run(self._starts[name])
                except _DivergedError as err:
                    self.not_reused = str(err)
                    self._report()
            return self._run(0)
        finally:
            self._bypassed = ""
            parent._modules.clear()
            parent._modules.update(children)

    def _run(self, stop: int) -> Outcome:
        """Run the network; calls before the one numbered `stop` reuse their outputs."""
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
        """Reuse all outputs before the last block, without removing it; outputs must be equal."""
        if missing := [name for name in self._blocks if name not in self._starts]:
            return f"block {missing[0]!r} is not called on this batch"
        try:
            again = self._run(max(self._starts.values()))
        except _DivergedError as err:
            return str(err)
        same = torch.equal(again.logits, self.full.logits)
        if not (same and torch.equal(again.features, self.full.features)):
            return "reusing the outputs before the last block gives another output"
        return ""

    def _report(self) -> None:
        if self.not_reused:
            logger.warning(
                "running all of %s for every block: %s", type(self._net).__name__, self.not_reused
            )

    def _watch(self, name: str, module: nn.Module) -> None:
        """Replace a module's forward by one that records, reuses or computes its output."""
        own: Forward = module.forward
        weighted = any(p.ndim > 1 for p in module.parameters(recurse=False))

        @functools.wraps(own)
        def forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the module's
            if self._recording and name in self._blocks:
                self._last_layer, self._features = "", None  # it must follow all blocks
            elif self._recording and weighted:
                self._last_layer = name
            if name == self._last_layer:
                floats = (t for t in tensors_of([args, kwargs]) if t.is_floating_point())
                self._features = next(floats, None)
            if self._recording:
                return self._record(name, own, args, kwargs)
            if self._next < self._stop:
                return self._reuse(name, own, args, kwargs)
            output = own(*args, **kwargs)
            return _bypass(output, args, kwargs) if name == self._bypassed else output

        module.forward = forward

    def _record(self, name: str, own: Forward, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        number, recorded = len(self._calls), _Call(name)
        self._calls.append(recorded)
        if name in self._blocks:
            self._starts[name] = number
        inputs = tensors_of([args, kwargs])
        versions = [tensor._version for tensor in inputs]
        module = [self._net.get_submodule(name)]
        state = state_around(module, args, kwargs)
        output = own(*args, **kwargs)
        recorded.end = len(self._calls)
        needed = len(self._starts) < len(self._blocks)  # not all blocks were called yet
        unchanged = versions == [tensor._version for tensor in inputs]
        unchanged = unchanged and state == state_around(module, args, kwargs)
        if needed and unchanged and _can_be_copied(output) and not _shares(output, inputs):
            recorded.saved = (copy.deepcopy(output),)
            if not any(number < start < recorded.end for start in self._starts.values()):
                for inner in self._calls[number + 1 : recorded.end]:
                    inner.saved = None  # not needed: the outer call is not computed
        return output

    def _reuse(self, name: str, own: Forward, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        expected = self._calls[self._next]
        if expected.name != name:
            raise _DivergedError(f"without a block it calls {name!r}, not {expected.name!r}")
        if expected.saved is not None and expected.end <= self._stop:
            self._next = expected.end
            return copy.deepcopy(expected.saved[0])
        self._next += 1
        return own(*args, **kwargs)


def _bypass(output: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401 - as the module's
    """Return a module's output with its input in place of the first tensor."""
    where = find_input(args, kwargs)
    assert where is not None
    x = args[where] if isinstance(where, int) else kwargs[where]
    return with_first(output, x)


def _can_be_copied(tree: Any) -> bool:  # noqa: ANN401 - whatever a module returns
    """Whether an output consists of tensors and plain values only."""
    if isinstance(tree, Mapping):
        return all(_can_be_copied(value) for value in tree.values())
    if isinstance(tree, (tuple, list)):
        return all(_can_be_copied(value) for value in tree)
    return tree is None or isinstance(tree, (Tensor, str, int, float, bool))


def _shares(output: Any, inputs: list[Tensor]) -> bool:  # noqa: ANN401
    """Whether an output shares memory with an input."""
    memory = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    return any(tensor.untyped_storage().data_ptr() in memory for tensor in tensors_of(output))
