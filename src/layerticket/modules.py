"""A protected view of the caller's model: it shares the memory of the weights and nothing else.

Modes, hooks, buffers and gradients of the view are its own, so changes to them do not reach the
caller. Weights are shared (no second copy of a large model), so nothing may write to them;
`weight_versions` detects if something did.
"""

import contextlib
import copy
import random
import re
import types
import warnings
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from layerticket.errors import LayerticketError

WRAPPED = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
}
"""Classes that wrap a network, and the attribute that has it: the prefix of all names."""
QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "bitsandbytes.")
"""Packages whose modules have packed weights."""


def network_of(model: object) -> nn.Module:
    """Return the network without wrappers, after checking that it can be examined.

    `torch.compile`, `DataParallel` and `DistributedDataParallel` add a prefix to every name of the
    network they wrap. They are removed at any depth; weights are shared.

    Raises:
        LayerticketError: If it is not a module, is scripted, quantized, offloaded or on the meta
            device, or was created in inference mode.

    Warns:
        UserWarning: If it was wrapped, since the result is not wrapped.
    """
    if not isinstance(model, nn.Module):
        shown = f"the text {model!r}" if isinstance(model, str) else f"a {type(model).__name__}"
        build = f"layerticket.build_model({model!r}, ...)" if isinstance(model, str) else "yours"
        raise LayerticketError(f"the model is {shown}; give a torch.nn.Module: {build}.")
    wrappers = {id(m): inner for m in model.modules() if (inner := _wrapped(m)) is not None}
    if wrappers:
        kinds = sorted({type(m).__name__ for m in model.modules() if id(m) in wrappers})
        warnings.warn(
            f"the network is wrapped in {', '.join(kinds)}; block names are those of the network "
            "inside, and the smaller network is not wrapped: wrap it again.",
            stacklevel=3,
        )
        model = _without_wrappers(model, wrappers)
    _check_weights(model)
    return model


def _wrapped(module: nn.Module) -> nn.Module | None:
    """Return the module inside a wrapper; None if the module is not a wrapper."""
    for kind in type(module).__mro__:
        attribute = WRAPPED.get(f"{kind.__module__}.{kind.__qualname__}")
        if attribute is not None:
            return module.get_submodule(attribute)
    return None


def _without_wrappers(model: nn.Module, wrappers: Mapping[int, nn.Module]) -> nn.Module:
    """Copy the tree of modules without wrappers; all tensors are shared."""
    while id(model) in wrappers:
        model = wrappers[id(model)]
    if not any(id(module) in wrappers for module in model.modules()):
        return model
    memo: dict[int, object] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    for module in model.modules():
        if id(module) in wrappers:
            inner = wrappers[id(module)]
            memo[id(module)] = copy.deepcopy(_without_wrappers(inner, wrappers), memo)
    return copy.deepcopy(model, memo)


def _check_weights(model: nn.Module) -> None:
    """Raise if weights cannot be read, set to zero, or differentiated."""
    kind = type(model).__name__
    _check_shapes(model)
    for name, module in model.named_modules():
        where = f"{type(module).__module__}.{type(module).__qualname__}"
        if isinstance(module, torch.jit.ScriptModule):
            raise LayerticketError(
                f"{name or kind} is scripted or traced, so its parts cannot be removed. "
                "Give the original network; script the smaller one afterwards."
            )
        packed = where.startswith(QUANTIZED) or getattr(module, "is_quantized", False) is True
        if packed or any(_is_packed(p) for p in module.parameters(recurse=False)):
            raise LayerticketError(
                f"{name or kind} is quantized: its weights are packed numbers without gradients. "
                "Find the ticket in the original network, then quantize the smaller one."
            )
        if any(p.is_meta for p in module.parameters(recurse=False)):
            hook = getattr(module, "_hf_hook", None)
            raise LayerticketError(
                f"the weights of {name or kind} are offloaded (accelerate) and cannot be read. "
                "Load the network without offloading (no device_map)."
                if hook is not None
                else f"the weights of {name or kind} are on the meta device, without values. Build "
                "the network on a real device, or fill it: model.to_empty(device='cpu')."
            )
        if any(p.is_inference() for p in module.parameters(recurse=False)):
            raise LayerticketError(
                f"the weights of {name or kind} were created in torch.inference_mode(), without "
                "gradients. Build the network outside of it."
            )


def _check_shapes(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise LayerticketError(
                f"parameter {name!r} has no shape yet: call the model once on an example first."
            )


def _is_packed(parameter: Tensor) -> bool:
    kind = type(parameter.data)
    return parameter.is_quantized or kind.__module__.startswith(("torchao.", "bitsandbytes."))


def copy_of(model: nn.Module, memo: dict[int, object] | None = None) -> nn.Module:
    """Deep-copy a model; objects whose id is in `memo` are replaced by the entries of `memo`.

    Tensors with gradients that a module keeps from its last call, such as a masked weight, are
    copied as values; the next call of the copy computes them again.

    Raises:
        LayerticketError: If the model cannot be copied.
    """
    memo = {} if memo is None else memo
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo.setdefault(id(value), value.detach().clone())
            elif type(value) is OrderedDict and not value:  # deepcopy is slow for these
                memo.setdefault(id(value), OrderedDict())
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as err:
        raise LayerticketError(
            f"{type(model).__name__} cannot be copied ({err}). Scoring and removing blocks need "
            "copy.deepcopy of the model."
        ) from err


def view_of(model: nn.Module) -> nn.Module:
    """Return a copy of the modules whose parameters share memory with the original.

    Every floating-point parameter of the view requires a gradient, even if frozen in the original.

    Raises:
        LayerticketError: If a lazy parameter has no shape yet, or the model cannot be copied.
    """
    memo: dict[int, object] = {}
    _check_shapes(model)
    for parameter in model.parameters():
        trainable = parameter.is_floating_point() or parameter.is_complex()
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=trainable)
    return copy_of(model, memo)


def in_eval_mode(model: nn.Module) -> nn.Module:
    """Set a network to evaluation mode and return it; the `eval` of some classes returns None."""
    model.eval()
    return model


def with_plain_weights(model: nn.Module) -> nn.Module:
    """Return the network with plain parameters in place of weights computed from other tensors.

    Computed are parametrized weights (`torch.nn.utils.parametrizations`), those of the older
    `weight_norm` and `spectral_norm`, and pruned weights (`torch.nn.utils.prune`). They become
    parameters with their current values. Module names stay, and all other weights are shared. A
    model without computed weights is returned itself.
    """
    if not any(computed_weights(module) for module in model.modules()):
        return model
    plain = view_of(model)
    make_plain(plain)
    return plain


def make_plain(model: nn.Module) -> None:
    """Replace computed weights by plain parameters in place; see `with_plain_weights`."""
    with preserved_modes(model), torch.no_grad():
        model.eval()  # in training mode spectral_norm would update its estimate
        for module in model.modules():
            _make_plain(module)


def computed_weights(module: nn.Module) -> dict[str, Callable[[], None]]:
    """Return the names of the computed weights of a module, and how to remove the hook of each."""
    found: dict[str, Callable[[], None]] = {}
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, (WeightNorm, SpectralNorm)):
            name = hook.name
        elif isinstance(hook, prune.BasePruningMethod):
            name = hook._tensor_name
        else:
            continue
        found[name] = partial(_unhook, module, key, name)
    if parametrize.is_parametrized(module):
        assert isinstance(module.parametrizations, nn.ModuleDict)
        found |= dict.fromkeys(module.parametrizations, lambda: None)
    return found


def _unhook(module: nn.Module, key: int, name: str) -> None:
    """Compute the weight once more, then delete the hook and the tensors that it reads."""
    module._forward_pre_hooks.pop(key)(module, ())
    for own in (module._parameters, module._buffers):
        for part in [p for p in own if re.fullmatch(re.escape(name) + "_(g|v|u|orig|mask)", p)]:
            del own[part]


def _make_plain(module: nn.Module) -> None:
    computed = computed_weights(module)
    for remove_hook in computed.values():
        remove_hook()
    values = {name: getattr(module, name).detach() for name in computed}
    if parametrize.is_parametrized(module):  # torch made a subclass for this module alone
        del module._modules["parametrizations"]
        module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        vars(module).pop(name, None)
        module.register_parameter(name, nn.Parameter(value))


class TwiceDifferentiable(TorchFunctionMode):
    """Replaces functions without a second derivative (`hardsigmoid`) by equal ones with one."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever a function of PyTorch returns
        if func in _HARDSIGMOID:
            x, inplace = args[0], "inplace" in (kwargs or {}) and (kwargs or {})["inplace"]
            y = F.relu6(x + 3) / 6
            return x.copy_(y) if inplace or func is torch._C._nn.hardsigmoid_ else y
        return func(*args, **(kwargs or {}))


_HARDSIGMOID = (F.hardsigmoid, torch._C._nn.hardsigmoid, torch._C._nn.hardsigmoid_)


def weight_versions(model: nn.Module) -> dict[str, int]:
    """Return how often each parameter was written to in place, counted by PyTorch."""
    return {name: parameter._version for name, parameter in model.named_parameters()}


@contextlib.contextmanager
def preserved_modes(model: nn.Module) -> Iterator[None]:
    """Restore the training or evaluation mode of every module at the end, also on errors."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def preserved_stores(model: nn.Module) -> Iterator[None]:
    """Restore what hooks that are functions have stored outside of the model, also on errors.

    A copy of a model keeps its hooks, since a hook can compute a weight or change an output. But
    ``copy.deepcopy`` shares functions, so a hook that stores activations stores those of the copy.
    Restored are the variables that such a function closes over or names as globals, and the members
    of dicts, lists and sets in them, also in attributes of an object, and inside each other.
    """
    restore: list[Callable[[], object]] = []
    waiting: list[Any] = []
    for hook in _functions_as_hooks(model):
        cells = [cell for cell in hook.__closure__ or () if cell != types.CellType()]
        names = [name for name in hook.__code__.co_names if name in hook.__globals__]
        restore += [partial(setattr, cell, "cell_contents", cell.cell_contents) for cell in cells]
        restore += [partial(hook.__globals__.__setitem__, n, hook.__globals__[n]) for n in names]
        held = [cell.cell_contents for cell in cells] + [hook.__globals__[n] for n in names]
        objects = [v for v in held if hasattr(v, "__dict__") and not isinstance(v, _CODE)]
        waiting += [*held, *(value for one in objects for value in vars(one).values())]
    seen = set[int]()
    while waiting:
        value = waiting.pop()
        if type(value) not in _CONTAINERS or id(value) in seen:
            continue
        seen.add(id(value))
        restore.append(partial(_refill, value, copy.copy(value)))
        waiting += value.values() if isinstance(value, dict) else value
    try:
        yield
    finally:
        for undo in restore:
            undo()


def _functions_as_hooks(model: nn.Module) -> set[types.FunctionType]:
    """Return the functions of Python among the hooks of a model."""
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    hooks = [h for m in model.modules() for kind in kinds for h in getattr(m, kind).values()]
    return {hook for hook in hooks if isinstance(hook, types.FunctionType)}


def _refill(container: Any, members: Any) -> None:  # noqa: ANN401 - one of _CONTAINERS
    """Give a container the members of another one of its type."""
    container.clear()
    (container.extend if isinstance(container, (list, deque)) else container.update)(members)


_CONTAINERS = (dict, list, set, OrderedDict, defaultdict, deque)
_CODE = (type, types.ModuleType, types.FunctionType)


@contextlib.contextmanager
def preserved_random_state(seed: int) -> Iterator[None]:
    """Seed Python, NumPy and PyTorch inside; restore their states at the end, also on errors."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the caller's global state is what must come back
    devices = list(range(torch.cuda.device_count()))
    try:
        with torch.random.fork_rng(devices=devices):
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@contextlib.contextmanager
def reference_kernels() -> Iterator[None]:
    """Compute attention by plain matrix products: countable, and twice differentiable."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def state_around(models: Sequence[nn.Module], args: Any, kwargs: Any) -> list[object]:  # noqa: ANN401
    """Return the identities of all values that a call could change; equal if it changed none.

    These are the members of every dictionary, list, set and object that is an argument of the call,
    an attribute of a module, or a global of the file that defines the module's class.
    """
    inner = [module for model in models for module in model.modules()]
    own = {type(m) for m in inner if not type(m).__module__.startswith("torch.")}
    spaces = [getattr(kind.forward, "__globals__", {}) for kind in own]
    globals_ = {
        id(value): value
        for space in spaces
        for name, value in space.items()
        if type(value) in (dict, list, set) and not name.startswith("__")  # `__builtins__`
    }
    waiting = [*args, *kwargs.values(), *globals_.values()]
    waiting += [value for module in inner for value in _attributes(module)]
    found: list[object] = []
    seen = {id(module) for module in inner}
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, (Tensor, type)):
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):  # a reference to a module that is not among its parts
            waiting += _attributes(value)
            continue
        if isinstance(value, Mapping):
            members = list(value.values())
        elif isinstance(value, (list, tuple, set, frozenset)):
            members = list(value)
        elif hasattr(value, "__dict__") and not callable(value):
            members = list(vars(value).values())
        else:
            continue
        if not isinstance(value, (tuple, frozenset)):
            found.append((id(value), *map(id, members)))
        waiting += [member for member in members if type(member) not in _ATOMS]
    return found


def _attributes(module: nn.Module) -> list[object]:
    """List the attributes of a module, except parameters, buffers, submodules, hooks and atoms."""
    return [
        value for key, value in vars(module).items() if key not in _HIDDEN and not _is_atom(value)
    ]


def _is_atom(value: object) -> bool:
    """Whether a value has no members that could change; True only for the most frequent types."""
    kind = type(value)
    return kind in _ATOMS or (kind is tuple and _ATOMS.issuperset(map(type, value)))  # type: ignore[call-overload]  # it is a tuple


_ATOMS = {bool, int, float, str, bytes, type(None)}
_HIDDEN = {key for key in vars(nn.Module()) if key.startswith("_")} | {"forward", "training"}
