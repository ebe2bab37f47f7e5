"""Count multiply-accumulates, parameters, and memory for the backward pass of a network.

Counts are exact and the same on every machine; times are measured in `evaluation.timing`.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, shape_wrapper

from layerticket.batch import (
    Batch,
    CrossEntropy,
    Inputs,
    LossFn,
    call,
    inputs_of,
    logits_of,
    size_of,
    tensors_of,
)
from layerticket.errors import LayerticketError
from layerticket.modules import in_eval_mode, preserved_random_state, reference_kernels, view_of


def count_params(model: nn.Module) -> int:
    """Count parameters; a shared one counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


class UncountedError(LayerticketError):
    """The network has operations whose multiply-accumulates cannot be counted."""


def count_macs(model: nn.Module, inputs: Inputs) -> int:
    """Count the MACs of one forward pass per example, in eval mode; the model is not changed.

    Raises:
        UncountedError: If there are operations that cannot be counted, with their names.

    Example:
        >>> count_macs(nn.Linear(3, 5), torch.ones(2, 3))
        15
    """
    return module_macs(model, inputs)[""]


def module_macs(model: nn.Module, inputs: Inputs) -> dict[str, int]:
    """Count MACs per example by module name, ``""`` for the whole model; repeated calls add up.

    Raises:
        UncountedError: As `count_macs` does.
    """
    view, counter = in_eval_mode(view_of(model)), MacCounter()
    for name, module in view.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: counter.enter(name))
        module.register_forward_hook(  # also where the network catches the module's error
            lambda *_, name=name: counter.leave(name), always_call=True
        )
    with torch.no_grad(), reference_kernels(), counter:
        call(view, inputs)
    return counter.by_module(view, inputs)


def training_macs(model: nn.Module, inputs: Inputs) -> int:
    """Count the MACs of one forward and backward pass per example, in train mode.

    About three times the forward pass: the backward pass multiplies once for the gradient of the
    weights and once for that of the inputs, which the first layer does not need. The optimizer is
    not counted. The output must have logits; batch normalization needs two examples.

    Raises:
        UncountedError: As `count_macs` does.

    Example:
        >>> training_macs(nn.Linear(3, 5), torch.ones(2, 3))  # 15 forward, 15 for the weights
        30
    """
    view = view_of(model).train()
    counter = MacCounter()
    with preserved_random_state(0), torch.enable_grad(), reference_kernels(), counter:
        torch.autograd.backward(logits_of(call(view, inputs)).float().sum())
    return _per_example(counter.total(), inputs)


class MacCounter(TorchDispatchMode):
    """Counts the multiply-accumulates of operations, in total and by module."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as all of these in torch
        self._own = {
            packet: shape_wrapper(formula)  # type: ignore[no-untyped-call]
            for packet, formula in _formulas().items()
        }
        self._formulas: dict[Any, Callable[..., int]] = {**flop_registry, **self._own}
        self._whole: set[Any] = set()  # operations that have no parts
        self._flops = 0
        self._by_module: Counter[str] = Counter()
        self._uncounted: set[str] = set()

    def enter(self, name: str) -> None:
        """Begin a call of a module."""
        self._by_module[name] -= self._flops

    def leave(self, name: str) -> None:
        """End a call of a module."""
        self._by_module[name] += self._flops

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - a PyTorch operation
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever it returns
        """Run an operation or its parts, and count those that have a formula."""
        kwargs, packet = kwargs or {}, func.overloadpacket
        formula = self._formulas.get(packet)
        if formula is None and func not in self._whole:
            with self:
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
            self._whole.add(func)
        space, name = func.namespace, packet.__name__
        known = packet in self._own or f"{space}.{name}" in WITHOUT_PRODUCTS
        if not known and (space not in ("aten", "prim", "prims") or PRODUCTS.match(name)):
            self._uncounted.add(f"{space}.{name}")
        output = func(*args, **kwargs)
        if formula is not None:
            self._flops += formula(*args, **kwargs, out_val=output)
        return output

    def total(self) -> int:
        """Return all FLOPs.

        Raises:
            UncountedError: If an operation was called that may multiply and add but has no formula,
                so that the count would be too low.
        """
        if self._uncounted:
            raise UncountedError(
                f"the multiply-accumulates of {', '.join(sorted(self._uncounted))} cannot be "
                "counted. Give a budget in blocks or parameters (remove, save_params)."
            )
        return self._flops

    def by_module(self, model: nn.Module, inputs: Inputs) -> dict[str, int]:
        """Return MACs per example of all modules; raises as `total` does."""
        self.total()
        names = (name for name, _ in model.named_modules())
        return {name: _per_example(self._by_module[name], inputs) for name in names}


PRODUCTS = re.compile(
    r"_?cdist|_?fft_|_?linalg_(?!vector_norm)|cholesky|triangular|lu_solve|ormqr|.*_mm$|.*packed_mm"
    r"|quantized_|.*_rnn|miopen_"
)
"""PyTorch operations that multiply and add, but have no formula here."""
WITHOUT_PRODUCTS = frozenset({"torchvision.nms", "torchvision.roi_align", "torchvision.roi_pool"})
"""Operations of other libraries that only compare and interpolate."""


def _formulas() -> dict[Any, Callable[..., int]]:
    """Return formulas for FLOPs from shapes, for operations that PyTorch's counter ignores."""
    aten = torch.ops.aten
    found: dict[Any, Callable[..., int]] = {
        aten.mv: lambda a, *_, **__: 2 * math.prod(a),
        aten.addmv: lambda _, a, *__, **___: 2 * math.prod(a),
        aten.dot: lambda a, *_, **__: 2 * math.prod(a),
        aten.vdot: lambda a, *_, **__: 2 * math.prod(a),
        aten.addr: lambda _, a, b, *__, **___: 2 * a[0] * b[0],
        aten.addbmm: lambda _, a, b, *__, **___: 2 * math.prod(a) * b[-1],
        aten._addmm_activation: lambda _, a, b, *__, **___: 2 * math.prod(a) * b[-1],
        aten._trilinear: _trilinear,
        aten._grouped_mm: _grouped,
        aten.mkldnn_rnn_layer: _mkldnn_rnn,
        aten.mkldnn_rnn_layer_backward: lambda *shapes, **named: 2 * _mkldnn_rnn(*shapes, **named),
        aten._cudnn_rnn: _cudnn_rnn,
        aten._cudnn_rnn_backward: lambda *shapes, **named: 2 * _cudnn_rnn(*shapes, **named),
    }
    if hasattr(torch.ops.torchvision, "deform_conv2d"):
        found[torch.ops.torchvision.deform_conv2d] = lambda _, weight, *__, out_shape, **___: (
            _convolved(weight, out_shape)
        )
        found[torch.ops.torchvision._deform_conv2d_backward] = lambda out, _, weight, *__, **___: (
            2 * _convolved(weight, out)
        )
    return found


Shape = Sequence[int]


def _trilinear(
    one: Shape,
    two: Shape,
    three: Shape,
    *expand: Any,  # noqa: ANN401 - see its schema
    **_: Any,  # noqa: ANN401
) -> int:
    """Count a sum over products of three tensors, one multiply-accumulate per product."""
    rank = len(one) + len(expand[0])
    sizes = [1] * rank
    for shape, unit in zip((one, two, three), expand, strict=False):
        own = iter(shape)
        for place in range(rank):
            if place not in unit:
                sizes[place] = max(sizes[place], next(own))
    return 2 * math.prod(sizes)


def _grouped(a: Shape, b: Shape, *_: Any, **__: Any) -> int:  # noqa: ANN401 - see its schema
    """Count grouped matrix products: each row is multiplied once, by the matrix of its group."""
    groups = a[0] if len(a) == len(b) == 3 else 1
    return 2 * groups * a[-2] * a[-1] * b[-1]


def _mkldnn_rnn(x: Shape, into: Shape, again: Shape, *_: Any, **__: Any) -> int:  # noqa: ANN401
    """Count one layer in one direction for x (T, N, D): two matrix products per step."""
    return 2 * x[0] * x[1] * (math.prod(into) + math.prod(again))


def _cudnn_rnn(x: Shape, weights: Sequence[Shape], *_: Any, **__: Any) -> int:  # noqa: ANN401
    """Count all layers and directions for x (T, N, D): one product per matrix and step."""
    return 2 * x[0] * x[1] * sum(math.prod(w) for w in weights if len(w) > 1)


def _convolved(weight: Shape, out: Shape) -> int:
    """Count a deformable convolution; the interpolation of its input is not counted."""
    return 2 * math.prod(weight) * out[0] * math.prod(out[2:])


def _per_example(flops: float, inputs: Inputs) -> int:
    """Return MACs per example: half of PyTorch's FLOPs, divided by N."""
    examples = max(1, next((len(t) for t in tensors_of(inputs) if t.ndim), 1))
    return round(flops / 2 / examples)


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Cost of a network; MACs and FLOPs per example, one MAC = one multiply-add = 2 FLOPs."""

    macs: int
    """MACs of a forward pass."""
    training_macs: int
    """MACs of a forward and backward pass."""
    params: int
    """Parameters; a shared one counts once."""
    held_bytes: int
    """Bytes that the forward pass of one batch keeps for the backward pass."""
    batch_size: int
    """Examples in that batch."""

    @property
    def flops(self) -> int:
        """FLOPs of a forward pass: 2 per MAC."""
        return 2 * self.macs


def count(model: nn.Module, batch: Batch, *, loss_fn: LossFn | None = None) -> Counts:
    """Count the cost of a network, which is not changed.

    Args:
        model: Any network.
        batch: ``(inputs, targets)`` or a dict, on the model's device; its size decides
            `held_bytes` only.
        loss_fn: Scalar loss of a model and a batch; mean cross-entropy by default.
    """
    inputs = inputs_of(batch)
    return Counts(
        macs=count_macs(model, inputs),
        training_macs=training_macs(model, inputs),
        params=count_params(model),
        held_bytes=held_bytes(model, batch, loss_fn=loss_fn),
        batch_size=size_of(batch),
    )


def held_bytes(
    model: nn.Module, batch: Batch, *, loss_fn: LossFn | None = None, bf16: bool = False
) -> int:
    """Count the bytes that autograd keeps between the forward and the backward pass.

    Every storage of a saved tensor counts once and as a whole. Parameters and buffers do not count;
    the batch itself does if the backward pass needs it. Copies of weights that autocast makes in
    bfloat16 count, because they are kept as well.

    The network runs once in train mode on a view, so it is not changed; with `bf16`, under
    autocast.

    Example:
        >>> batch = (torch.ones(4, 3), torch.zeros(4, dtype=torch.int64))
        >>> held_bytes(nn.Linear(3, 2), batch)  # 48 input, 32 log-probabilities, 32 labels, 4 N
        116
    """
    view = view_of(model).train()
    own = {t.untyped_storage()._cdata for t in (*view.parameters(), *view.buffers())}
    held: dict[int, Tensor] = {}  # the tensors stay alive, so no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in own:
            held.setdefault(key, tensor)
        return tensor

    def unpack(tensor: Tensor) -> Any:  # noqa: ANN401 - as torch has it
        return tensor

    device = next((p.device.type for p in view.parameters()), "cpu")
    with (
        preserved_random_state(0),
        torch.enable_grad(),
        torch.autocast(device, torch.bfloat16, enabled=bf16),
        torch.autograd.graph.saved_tensors_hooks(pack, unpack),
    ):
        loss = (loss_fn or CrossEntropy())(view, batch)
    total = sum(tensor.untyped_storage().nbytes() for tensor in held.values())
    del loss
    return total


def realized_share(macs_saved: float, time_saved: float) -> float | None:
    """Return the realized share of the theoretical gain: time saved divided by MACs saved.

    1 if as large a share of time as of MACs is saved; None if no MACs are saved.

    Example:
        >>> realized_share(0.5, 0.25)
        0.5
    """
    return time_saved / macs_saved if macs_saved > 0 else None
