"""The zero-function test of a single module, on the arguments it was called with.

With all parameters at zero a residual block returns its input; with random ones it adds something
that depends on the input. The generic input is non-negative, so that a ReLU behind the addition
lets it pass, and nowhere constant, so that a gate cannot pass for a block.
"""

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerticket.batch import tensors_of
from layerticket.view import copy_of

__all__ = [
    "FURTHER",
    "NO_TENSOR",
    "branch_test",
    "call_with",
    "find_input",
    "first_argument",
    "first_tensor",
    "idempotent",
    "isolated",
    "lively",
    "zero_test",
    "zeroed_modules",
]

FURTHER = "returns further outputs that later modules may need"
NO_TENSOR = "takes no floating-point tensor"
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


def zeroed_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return a copy of every module by name with all parameters zero; zeros take no memory.

    Stacked matrices (experts) share one stretch of zeros: their kernels want true strides.
    """
    stacks = [p.numel() for p in model.parameters() if p.ndim == 3]
    zeros: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def zero(p: nn.Parameter) -> nn.Parameter:
        if p.ndim != 3:
            return nn.Parameter(torch.zeros((), dtype=p.dtype, device=p.device).expand(p.shape))
        kind = p.dtype, p.device
        if kind not in zeros:
            zeros[kind] = torch.zeros(max(stacks), dtype=p.dtype, device=p.device)
        return nn.Parameter(zeros[kind][: p.numel()].view(p.shape))

    memo: dict[int, object] = {
        id(p): zero(p) if p.is_floating_point() else p for p in model.parameters()
    }
    return dict(copy_of(model, memo).eval().named_modules())


def zero_test(
    module: nn.Module, x: Tensor, where: int | str, args: Args, kwargs: Kwargs
) -> tuple[str, Literal["plain", "rich"]]:
    """Call the zeroed module on x; the reason is empty when it returns x."""
    form: Literal["plain", "rich"] = "plain" if where == 0 and len(args) == 1 else "rich"
    if kwargs:
        form = "rich"
    try:
        output = call_with(module, x.clone(), where, args, kwargs)
    except Exception as err:
        return f"cannot be run alone ({type(err).__name__}: {err})".splitlines()[0], form
    first = first_tensor(output)
    if first is None or first.shape != x.shape:
        return "does not return a tensor of its input's shape", form
    if not torch.allclose(first.to(x.dtype), x, rtol=1e-3, atol=1e-4):
        return "has no identity shortcut: with its weights at zero it does not return x", form
    if isinstance(output, Tensor):
        return "", form
    known = {t.data_ptr() for t in tensors_of([args, kwargs])} | {first.data_ptr()}
    if any(t.data_ptr() not in known for t in tensors_of(_parts(output))[1:]):
        return FURTHER, "rich"
    return "", "rich"


def idempotent(module: nn.Module, x: Tensor, where: int | str, args: Args, kwargs: Kwargs) -> bool:
    """Tell whether the zeroed module leaves alone what it returns itself, whatever the signs.

    So does an identity, and a ReLU behind the addition, which lets pass what an earlier one let
    pass; another activation changes its own output again.
    """
    once = first_tensor(call_with(module, x.clone(), where, args, kwargs))
    assert once is not None
    again = first_tensor(call_with(module, once.clone(), where, args, kwargs))
    return again is not None and torch.allclose(again, once, rtol=1e-3, atol=1e-4)


def branch_test(module: nn.Module, x: Tensor, where: int | str, args: Args, kwargs: Kwargs) -> str:
    """With random weights the module must add something, and something that depends on x."""
    active = copy_of(module)
    for owner in active.modules():
        for key, parameter in owner._parameters.items():
            if parameter is not None and parameter.is_floating_point():
                owner._parameters[key] = nn.Parameter(lively(parameter))
    branches = []
    for point in (x, x.flip(0, -1) * 1.5 if x.ndim > 1 else x * 1.5):
        output = first_tensor(call_with(active, point.clone(), where, args, kwargs))
        assert output is not None
        branches.append(output - point)
    if torch.allclose(branches[0], torch.zeros_like(x), atol=1e-6):
        return "adds nothing to its input"
    if torch.allclose(branches[0], branches[1], rtol=1e-5, atol=1e-6):
        return "adds the same to every input, as a position embedding does"
    return ""


def lively(parameter: Tensor) -> Tensor:
    """Draw values that neither mute nor drown what flows through, however many layers follow.

    Matrices keep the variance; vectors (scales, biases) and gains of a whole branch lie around 1.
    """
    blank = torch.empty_like(parameter, memory_format=torch.contiguous_format)
    if parameter.ndim > 1:
        return blank.normal_(std=(parameter.shape[0] / max(1, parameter.numel())) ** 0.5)
    return blank.uniform_(0.5, 1.5) if parameter.numel() > 1 else blank.fill_(1)


def call_with(module: nn.Module, x: Tensor, where: int | str, args: Args, kwargs: Kwargs) -> Any:  # noqa: ANN401
    """Call a module on recorded arguments with x in the place of its input."""
    args, kwargs = isolated(args), isolated(kwargs)
    if isinstance(where, int):
        args = (*args[:where], x, *args[where + 1 :])
    else:
        kwargs = {**kwargs, where: x}
    return module(*args, **kwargs)


def isolated(tree: Any) -> Any:  # noqa: ANN401 - any nesting
    """Copy stateful arguments (a key-value cache); keep tensors and modules as they are."""
    if isinstance(tree, (Tensor, nn.Module)) or tree is None:
        return tree
    if type(tree) is tuple or type(tree) is list:
        return type(tree)(isolated(value) for value in tree)
    if type(tree) is dict:
        return {key: isolated(value) for key, value in tree.items()}
    return copy.deepcopy(tree)


def find_input(args: Args, kwargs: Kwargs) -> int | str | None:
    """Return where the first floating-point tensor stands among the arguments."""
    places: list[tuple[int | str, object]] = [*enumerate(args), *kwargs.items()]
    for place, value in places:
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1:
            return place
    return None


def _parts(output: Any) -> Any:  # noqa: ANN401 - whatever a module returns
    return list(output.values()) if isinstance(output, Mapping) else output


def first_tensor(output: Any) -> Tensor | None:  # noqa: ANN401 - whatever a module returns
    """Return the tensor a module's output is or begins with, if any."""
    if isinstance(output, Tensor):
        return output
    parts = _parts(output)
    first = parts[0] if isinstance(parts, (tuple, list)) and parts else None
    return first if isinstance(first, Tensor) else None


def first_argument(x: Any, *_: Any, **__: Any) -> Any:  # noqa: ANN401
    """Stand in for a module's forward: the identity."""
    return x
