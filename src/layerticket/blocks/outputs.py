"""Which modules return, besides the stream, tensors that the rest of the network needs.

What enters: a network, an example, names of modules that return further tensors. What leaves: the
names of those whose further tensors change what the network returns first.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from layerticket.batch import Inputs, call, tensors_of
from layerticket.blocks.zero_test import first_tensor
from layerticket.view import preserved_random_state, reference_kernels, view_of

__all__ = ["needed_outputs"]


def needed_outputs(model: nn.Module, example: Inputs, names: Collection[str]) -> set[str]:
    """Return the modules whose further outputs the network needs; the model is not modified.

    The tensors a module returns after the first, and was not given, are disturbed; they are needed
    where the network then returns something else. Cost: two forward passes, and one more for each
    module if not all of them can be spared.
    """
    if not names:
        return set()
    whole = _run(model, example, ())
    if _same(_run(model, example, names), whole):
        return set()
    return {name for name in names if not _same(_run(model, example, (name,)), whole)}


def _run(model: nn.Module, example: Inputs, names: Collection[str]) -> Tensor | None:
    """Run with the further outputs of some modules disturbed; None where that fails."""
    view = view_of(model).eval()
    for name in names:
        view.get_submodule(name).register_forward_hook(_disturb, with_kwargs=True)
    try:
        with preserved_random_state(0), torch.no_grad(), reference_kernels():
            output = call(view, example)
    except Exception:  # the network cannot do with what it was given: it needs the true tensors
        return None
    return first_tensor(output)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b)


def _disturb(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:  # noqa: ANN401 - a hook
    if type(output) is not tuple:
        return output
    given = {tensor.data_ptr() for tensor in tensors_of([args, kwargs, output[0]])}
    return (output[0], *(_disturbed(entry, given) for entry in output[1:]))


def _disturbed(entry: Any, given: set[int]) -> Any:  # noqa: ANN401 - whatever a module returns
    if isinstance(entry, Tensor) and entry.is_floating_point() and entry.data_ptr() not in given:
        return entry + torch.randn_like(entry)
    return entry
