"""Runs a network once, and records all that the search for blocks needs of it."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layerticket.batch import Inputs, call, number_types
from layerticket.blocks.probe import Args, Kwargs, Prober, cause_of
from layerticket.blocks.sums import Flow
from layerticket.counting import MacCounter
from layerticket.errors import ModelError
from layerticket.modules import (
    in_eval_mode,
    preserved_random_state,
    reference_kernels,
    state_around,
    view_of,
)


@dataclass(frozen=True, slots=True)
class Recording:
    """One forward pass of a network."""

    prober: Prober
    """How modules are called."""
    flow: Flow
    """From which tensors others are computed."""
    macs: MacCounter
    """Multiply-accumulates of modules."""
    effects: set[str]
    """Modules that change values outside of their output."""
    output: Any
    """What the network returns."""
    view: nn.Module | None
    """The view that ran, without hooks of ours; None if running it changed what it holds."""


def record(model: nn.Module, example: Inputs) -> Recording:
    """Run a network once with hooks on every module; the model is not modified.

    Raises:
        ModelError: If the model does not run on the example.
    """
    view = in_eval_mode(view_of(model))
    prober, flow, macs = Prober(model), Flow(), MacCounter()
    running: list[tuple[str, list[object]]] = []  # modules, and the state when they were entered
    effects: set[str] = set()
    hooks = ExitStack()

    def watch(name: str, module: nn.Module) -> None:
        def enter(_: nn.Module, args: Args, kwargs: Kwargs) -> None:
            prober.enter(name, module, args, kwargs)
            flow.enter(name, args, kwargs)
            macs.enter(name)
            running.append((name, state_around([module], args, kwargs)))

        def leave(_: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> None:  # noqa: ANN401
            if not running or running[-1][0] != name:
                return  # a hook of the user failed before `enter` was called
            if running.pop()[1] != state_around([module], args, kwargs):
                effects.add(name)
            macs.leave(name)
            flow.leave(name, args, kwargs, output)
            prober.leave(name, output)

        # A network may catch the error of a module: then its output is None here.
        hooks.enter_context(module.register_forward_pre_hook(enter, with_kwargs=True))
        hooks.enter_context(module.register_forward_hook(leave, with_kwargs=True, always_call=True))

    for name, module in view.named_modules():
        watch(name, module)
    held, writes = _held(view), _writes(view)
    try:
        with hooks, preserved_random_state(0), torch.no_grad(), reference_kernels(), macs, flow:
            output = call(view, example)
    except ModelError as err:
        raise ModelError(
            f"{type(model).__name__} does not run on the example given ({cause_of(err)}). "
            f"{number_types(model, example) or _advice(example)}"
        ) from err.__cause__
    unchanged = not effects and [*map(id, held)] == [*map(id, _held(view))]
    unchanged = unchanged and writes == _writes(view)
    return Recording(prober, flow, macs, effects, output, view if unchanged else None)


def _held(model: nn.Module) -> list[object]:
    """List the modules with the values of their attributes, and the buffers."""
    found: list[object] = [*model.modules(), *model.buffers()]
    for module in model.modules():
        found += vars(module).values()
    return found


def _writes(model: nn.Module) -> list[int | None]:
    """Return how often each buffer was written to in place; None: not counted by PyTorch."""
    return [None if b.is_inference() else b._version for b in model.buffers()]


def _advice(example: Inputs) -> str:
    """Return what to give as the example; a pair that ends in integers is probably a batch."""
    last = example[-1] if isinstance(example, (tuple, list)) and len(example) == 2 else None
    if isinstance(last, Tensor) and not last.is_floating_point():
        return (
            "A tuple holds the positional arguments of the model's forward. If this is a batch "
            "(inputs, targets), give the inputs only: batch[0]."
        )
    return "Give inputs that its forward accepts: a tensor, a tuple or a dict."
