"""Runs a network once and puts every module to the zero-function test where it is called.

What enters: any network and an example. What leaves: for every module with weights, whether it
returns its input when its parameters are zero, or the reason why not. Which of the passing
modules are blocks is decided in `finder`.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerticket.batch import Inputs, call
from layerticket.blocks.plain_parts import find_norms, find_pointwise
from layerticket.blocks.zero_test import (
    FURTHER,
    NO_TENSOR,
    branch_test,
    find_input,
    first_argument,
    first_tensor,
    idempotent,
    isolated,
    zero_test,
    zeroed_modules,
)
from layerticket.errors import LayerticketError
from layerticket.view import preserved_random_state, reference_kernels, view_of

__all__ = ["Finding", "probe", "runs"]

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


@dataclass(slots=True)
class Finding:
    """What running the network told about one module."""

    order: int
    """Place in the order of execution."""
    shape: tuple[int, ...] = ()
    """Shape of the first floating-point input, without the batch dimension."""
    call: Literal["plain", "rich"] = "plain"
    post_norm: bool = False
    """Whether it passes only with its normalizations, or activations as well, at identity."""
    composite: bool = False
    """Whether weights lie in its children."""
    calls: int = 0
    reason: str = "is never called in a forward pass on the example"
    """Why it must stay; empty for a module that passes."""


def runs(model: nn.Module, example: Inputs) -> str:
    """Return the empty string when the model runs on the example, else what went wrong."""
    try:
        with torch.no_grad(), reference_kernels():
            call(model, example)
    except Exception as err:
        return f"{type(err).__name__}: {str(err).splitlines()[0] if str(err) else ''}"
    return ""


def probe(model: nn.Module, example: Inputs) -> dict[str, Finding]:
    """Put every module with weights to the zero-function test; the model is not modified.

    Cost: one forward pass, and for each level of nesting about three more.

    Returns:
        A finding for every module that holds a weight matrix, by name.

    Raises:
        LayerticketError: If the model does not run on the example.
    """
    with preserved_random_state(0):
        recorder = view_of(model).eval()
        prober = _Prober(model, find_norms(model, example), find_pointwise(model))
        for name, module in recorder.named_modules():
            if name in prober.findings:
                module.register_forward_pre_hook(prober.enter(name), with_kwargs=True)
                module.register_forward_hook(prober.leave(name))
        if failure := runs(recorder, example):
            raise LayerticketError(
                f"{type(model).__name__} does not run on the example given ({failure}); give "
                "inputs its forward takes: a tensor, a tuple or a dict."
            )
    return prober.findings


class _Prober:
    """Holds the test copies of a model while one forward pass visits its modules."""

    def __init__(self, model: nn.Module, norms: set[str], pointwise: set[str]) -> None:
        self.zero, self.normless, self.bare = (zeroed_modules(model) for _ in range(3))
        for name in norms:
            self.normless[name].forward = self.bare[name].forward = first_argument
        for name in pointwise:
            self.bare[name].forward = first_argument
        self.findings = {
            name: Finding(order=-1, composite=bool(_matrices(module) - _own_matrices(module)))
            for name, module in model.named_modules()
            if name and _matrices(module)
        }
        self.visited = 0

    def enter(self, name: str) -> Any:  # noqa: ANN401 - a hook
        def hook(module: nn.Module, args: Args, kwargs: Kwargs) -> None:
            finding = self.findings[name]
            finding.calls += 1
            if finding.calls > 1:
                finding.reason = "is called more than once in a forward pass"
                return
            finding.order, self.visited = self.visited, self.visited + 1
            self._examine(name, module, finding, args, kwargs)

        return hook

    def leave(self, name: str) -> Any:  # noqa: ANN401 - a hook
        def hook(_: nn.Module, __: Args, output: Any) -> None:  # noqa: ANN401
            finding, first = self.findings[name], first_tensor(output)
            if finding.reason and finding.calls == 1 and first is not None:
                shape = tuple(first.shape[1:])
                if finding.shape and shape != finding.shape:
                    finding.reason = f"changes shape {_show(finding.shape)} -> {_show(shape)}"

        return hook

    def _examine(
        self, name: str, module: nn.Module, finding: Finding, args: Args, kwargs: Kwargs
    ) -> None:
        where = find_input(args, kwargs)
        if where is None:
            finding.reason = NO_TENSOR
            return
        x: Tensor = args[where] if isinstance(where, int) else kwargs[where]
        finding.shape = tuple(x.shape[1:])
        if type(module).__module__.startswith("torch.nn.") and not list(module.children()):
            finding.reason = "is a single layer, not a residual block"
            return
        generic = torch.rand_like(x) + 0.5  # non-negative, so that a ReLU behind lets it pass
        rest = (where, isolated(args), isolated(kwargs))
        finding.reason, finding.call = zero_test(self.zero[name], generic, *rest)
        for without in (self.normless, self.bare):
            if finding.reason not in ("", FURTHER):
                reason, form = zero_test(without[name], generic, *rest)
                if reason in ("", FURTHER):
                    finding.reason, finding.call, finding.post_norm = reason, form, True
        if finding.reason in ("", FURTHER):
            finding.reason = branch_test(self.zero[name], generic, *rest) or finding.reason
        if finding.reason in ("", FURTHER) and not finding.post_norm:
            signed = torch.randn_like(x)
            finding.post_norm = not idempotent(self.zero[name], signed, *rest)


def _matrices(module: nn.Module) -> set[int]:
    return {id(p) for p in module.parameters() if p.ndim > 1}


def _own_matrices(module: nn.Module) -> set[int]:
    return {id(p) for p in module.parameters(recurse=False) if p.ndim > 1}


def _show(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(str(size) for size in shape) + ")"
