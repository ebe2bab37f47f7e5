"""Batches: how to call a model on one, and how to compute its loss.

Letters: N examples, K classes. A model's inputs are a tensor (``model(x)``), a tuple or list
(``model(*inputs)``) or a mapping (``model(**inputs)``). A batch is ``(inputs, targets)`` or one
mapping with both, as Hugging Face models take it.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layerticket.errors import LayerticketError, raised_by, unknown_name
from layerticket.tensors import tensor_digest

Inputs = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
Batch = tuple[Inputs, Tensor] | Mapping[str, Any]
LossFn = Callable[[nn.Module, Batch], Tensor]


def call(model: nn.Module, inputs: Inputs) -> Any:  # noqa: ANN401 - whatever the model returns
    """Call a model on its inputs: a tensor, positional inputs, or named inputs.

    Raises:
        ModelError: If the model raises; out of memory passes unchanged.
        LayerticketError: If the inputs have another type.
    """
    if not isinstance(inputs, (Tensor, Mapping, tuple, list)):
        raise LayerticketError(
            f"inputs are a {type(inputs).__name__}; give a tensor, or a tuple or dict of the "
            "arguments of the model's forward."
        )
    with raised_by(model, "when called on the inputs", lambda: number_types(model, inputs)):
        if isinstance(inputs, Tensor):
            return model(inputs)
        return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


PIXELS = (torch.uint8, torch.uint16, torch.int16, torch.int32)
"""Number types of images as they are stored."""


def number_types(model: nn.Module, inputs: Inputs) -> str:
    """Return what to do where the inputs have another number type than the weights, else ""."""
    held = {p.dtype for p in model.parameters() if p.is_floating_point()}
    for given in tensors_of(inputs):
        pixels = given.dtype in PIXELS and given.ndim >= 3
        if len(held) != 1 or given.dtype in held or not (pixels or given.is_floating_point()):
            continue
        weights = str(next(iter(held)))
        how = (
            "Give pixels as the network is trained on them: divided by 255 and normalized, or "
            "drawn from a data set by layerticket.data.scoring_batch."
            if pixels
            else f"Convert them: inputs.to({weights})."
        )
        return f"The inputs are {given.dtype}, the weights {weights}. {how}"
    return ""


def inputs_of(batch: Batch) -> Inputs:
    """Return the part of a batch that the model is called on."""
    if isinstance(batch, Mapping):
        return batch
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        inputs: Inputs = batch[0]
        return inputs
    raise LayerticketError(
        f"a batch is a {type(batch).__name__}. Give (inputs, targets), or one dict that the model "
        "takes."
    )


def logits_of(output: Any) -> Tensor:  # noqa: ANN401 - whatever the model returned
    """Return the logits of an output: the tensor itself, ``.logits``, or the first entry."""
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else None
    if logits is None:
        logits = getattr(output, "logits", None)
    if logits is None and isinstance(output, (tuple, list)) and output:
        logits = output[0]
    if isinstance(logits, Tensor):
        return logits
    raise LayerticketError(
        f"the model returns a {type(output).__name__} without logits; pass loss_fn(model, batch)."
    )


LOSSES = ("cross_entropy", "bce", "mse")
"""Names of losses: for classes; for several labels that are each 0 or 1; for values."""
IGNORED = -100
"""Target of an example that PyTorch's cross-entropy ignores."""


@dataclass(frozen=True)
class CrossEntropy:
    """Mean cross-entropy of ``logits / temperature`` for a batch ``(inputs, targets)``."""

    temperature: float = 1.0
    """Divides the logits; dimensionless, > 0."""
    classes_only: bool = False
    """Whether only one class per example is accepted as target. True for the default loss, which
    must not guess what the targets are."""

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss as a scalar, in nats per example.

        Raises:
            LayerticketError: If a class is out of range, or if `classes_only` and the targets are
                not classes.
        """
        logits, targets = _logits_and_targets("cross-entropy", model, batch)
        whole = not targets.is_floating_point() and targets.dtype != torch.bool
        several = logits.ndim > 1 and logits.shape[1] > 1
        fitting = targets.shape == logits.shape[:1] + logits.shape[2:]
        if self.classes_only and not (whole and several and fitting):
            raise LayerticketError(
                f"targets {_described(targets)} for outputs of shape {tuple(logits.shape)} may be "
                "classes, probabilities, labels or values. Name the loss: loss_fn='cross_entropy' "
                "(classes, or their probabilities), 'bce' (several labels, each 0 or 1), 'mse' "
                "(values), or a function of model and batch."
            )
        if whole:
            targets = targets.long()
            _check_classes(targets, logits.shape[1] if logits.ndim > 1 else logits.shape[0])
        return F.cross_entropy(logits / self.temperature, targets)


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Mean binary cross-entropy of ``logits / temperature``: several labels, each 0 or 1."""

    temperature: float = 1.0
    """Divides the logits; dimensionless, > 0."""

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss as a scalar, in nats per label.

        Raises:
            LayerticketError: If the numbers of targets and outputs differ, or a target is not from
                0 to 1.
        """
        logits, targets = _logits_and_targets("bce", model, batch)
        targets = _as_outputs("bce", logits, targets)
        if targets.numel() and not 0 <= targets.min() <= targets.max() <= 1:
            raise LayerticketError(
                f"bce takes labels from 0 to 1, but the targets range from {targets.min():g} to "
                f"{targets.max():g}. Give labels, or loss_fn='mse' for values."
            )
        return F.binary_cross_entropy_with_logits(logits / self.temperature, targets)


@dataclass(frozen=True)
class MeanSquaredError:
    """Mean squared difference of outputs and targets: values."""

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss as a scalar, in squared units of the targets.

        Raises:
            LayerticketError: If the numbers of targets and outputs differ.
        """
        outputs, targets = _logits_and_targets("mse", model, batch)
        return F.mse_loss(outputs, _as_outputs("mse", outputs, targets))


def loss_named(name: str, temperature: float | None = None) -> LossFn:
    """Return a loss by its name.

    Args:
        name: One of `LOSSES`.
        temperature: Divides the logits; not for `mse`.

    Raises:
        LayerticketError: If the name is unknown, or `mse` is given a temperature.
    """
    if name == "mse":
        if temperature is not None:
            raise LayerticketError(
                f"temperature is {temperature}, but mse has no logits to divide. Leave it out."
            )
        return MeanSquaredError()
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    kind = CrossEntropy if name == "cross_entropy" else BinaryCrossEntropy
    return kind(1.0 if temperature is None else temperature)


def name_of_loss(loss: object) -> str | None:
    """Return the name of a loss of this module; None for a function of the caller."""
    kinds = (CrossEntropy, BinaryCrossEntropy, MeanSquaredError)
    return next((n for n, kind in zip(LOSSES, kinds, strict=True) if isinstance(loss, kind)), None)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise LayerticketError(f"temperature is {temperature}; it must be > 0.")


def _logits_and_targets(what: str, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Run the model; return logits (N, K) or (N, K, ...), at least float32, and the targets."""
    if isinstance(batch, Mapping):
        raise LayerticketError(
            f"{what} needs a batch (inputs, targets), got a dict; pass "
            "loss_fn=layerticket.model_loss for a model that returns its own loss."
        )
    logits, targets = logits_of(call(model, inputs_of(batch))), batch[1]
    if not isinstance(targets, Tensor):
        raise LayerticketError(f"targets are a {type(targets).__name__}; give a tensor.")
    return logits if logits.dtype == torch.double else logits.float(), targets


def _as_outputs(what: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return targets in the shape and type of the outputs; for outputs (N, 1) they may be (N,)."""
    if targets.shape != outputs.shape and not targets.numel() == outputs.numel() == len(outputs):
        raise LayerticketError(
            f"{what} compares outputs of shape {tuple(outputs.shape)} with targets "
            f"{_described(targets)}; give one target for each output."
        )
    return targets.reshape(outputs.shape).to(outputs.dtype)


def _check_classes(targets: Tensor, classes: int) -> None:
    counted = targets[targets != IGNORED]
    if counted.numel() and not 0 <= counted.min() <= counted.max() < classes:
        raise LayerticketError(
            f"labels range from {counted.min()} to {counted.max()}, but the network has {classes} "
            f"outputs, for classes 0 to {classes - 1}. Renumber the classes, or build the network "
            "for more classes."
        )


def _described(targets: Tensor) -> str:
    return f"of type {str(targets.dtype).removeprefix('torch.')}, shape {tuple(targets.shape)},"


def model_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss that the model computes itself (``model(**batch).loss``), a scalar.

    Raises:
        LayerticketError: If the output has no loss.
    """
    output = call(model, inputs_of(batch))
    loss = getattr(output, "loss", None)
    if not isinstance(loss, Tensor):
        raise LayerticketError(
            "the model's output has no `.loss`; put labels into the batch or pass loss_fn."
        )
    return loss


def map_tensors(tree: Any, fn: Callable[[Tensor], Any]) -> Any:  # noqa: ANN401 - any nesting
    """Apply `fn` to every tensor of nested tuples, lists and mappings; keep everything else."""
    if isinstance(tree, Tensor):
        return fn(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(value, fn) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        parts = [map_tensors(value, fn) for value in tree]
        return tree._make(parts) if hasattr(tree, "_make") else type(tree)(parts)
    return tree


def tensors_of(tree: Any) -> list[Tensor]:  # noqa: ANN401 - any nesting
    """List the tensors of nested tuples, lists and mappings, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, Mapping) else tree
    nested = isinstance(tree, (Mapping, tuple, list))
    return [tensor for part in parts for tensor in tensors_of(part)] if nested else []


def size_of(batch: Any) -> int:  # noqa: ANN401 - a batch or inputs
    """Return N, the number of examples, which is the first dimension of every tensor."""
    sizes = {tensor.shape[0] if tensor.ndim else 1 for tensor in tensors_of(batch)}
    if len(sizes) != 1:
        raise LayerticketError(
            f"the number of examples is unclear: first dimensions are {sorted(sizes) or 'absent'}."
        )
    return sizes.pop()


def head(batch: Any, examples: int) -> Any:  # noqa: ANN401 - same type as given
    """Return the first `examples` examples if all tensors share N, else the whole batch."""
    sizes = {tensor.shape[0] if tensor.ndim else 1 for tensor in tensors_of(batch)}
    return map_tensors(batch, lambda t: t[:examples]) if len(sizes) == 1 else batch


def split(batch: Batch, parts: int) -> list[tuple[float, Batch]]:
    """Split a batch into `parts` micro-batches, each with its share of the examples.

    The shares add up to 1, so that the share-weighted sum of mean losses is the mean loss of the
    whole batch.
    """
    if parts == 1:
        return [(1.0, batch)]
    total = size_of(batch)
    if not 1 <= parts <= total:
        raise LayerticketError(f"micro_batches is {parts}; allowed are 1 to {total}, the examples.")
    edges = [round(i * total / parts) for i in range(parts + 1)]
    return [
        ((stop - start) / total, map_tensors(batch, lambda t, a=start, b=stop: t[a:b]))  # type: ignore[misc]  # mypy cannot infer a lambda with defaults
        for start, stop in itertools.pairwise(edges)
    ]


def classes_of(batch: Batch) -> Tensor | None:
    """Return the classes (N,): the targets, or `labels` in a dict.

    None unless they are one whole number per example.
    """
    targets = batch.get("labels") if isinstance(batch, Mapping) else batch[1]
    if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point():
        return None
    return targets


def batch_digest(batch: Any) -> str:  # noqa: ANN401 - a batch or inputs
    """Return the SHA-256 over every tensor's type, shape and bytes, in order."""
    return tensor_digest({f"{index:06d}": t for index, t in enumerate(tensors_of(batch))})


def output_parts(output: Any) -> Any:  # noqa: ANN401 - whatever a module returns
    """Return the values of a mapping as a list; anything else as it is."""
    return list(output.values()) if isinstance(output, Mapping) else output


def first_tensor(output: Any) -> Tensor | None:  # noqa: ANN401 - whatever a module returns
    """Return a module's output if it is a tensor, else its first entry; None if not a tensor."""
    if isinstance(output, Tensor):
        return output
    parts = output_parts(output)
    first = parts[0] if isinstance(parts, (tuple, list)) and parts else None
    return first if isinstance(first, Tensor) else None


def with_first(output: Any, x: Tensor) -> Any:  # noqa: ANN401 - whatever a module returns
    """Return a module's output with `x` in place of its `first_tensor`."""
    if isinstance(output, Tensor):
        return x
    if isinstance(output, Mapping):
        return type(output)({**output, next(iter(output)): x})  # type: ignore[call-arg]  # any mapping
    rest = [x, *output[1:]]
    return output._make(rest) if hasattr(output, "_make") else type(output)(rest)
