"""What a batch is, how a model is called on it, and what its loss is.

Letters: N examples, K classes. A model's inputs are a tensor (``model(x)``), a tuple or list
(``model(*inputs)``) or a mapping (``model(**inputs)``). A batch is ``(inputs, targets)`` or one
mapping that holds both, as Hugging Face models take it.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layerticket.errors import LayerticketError, raised_by
from layerticket.tensors import tensor_digest

Inputs = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
Batch = tuple[Inputs, Tensor] | Mapping[str, Any]
LossFn = Callable[[nn.Module, Batch], Tensor]


def call(model: nn.Module, inputs: Inputs) -> Any:  # noqa: ANN401 - whatever the model returns
    """Call a model on its inputs: a tensor, positional inputs, or named inputs.

    Raises:
        ModelError: If the model raises; out of memory passes unchanged.
        LayerticketError: If the inputs are something else.
    """
    if not isinstance(inputs, (Tensor, Mapping, tuple, list)):
        raise LayerticketError(
            f"inputs are a {type(inputs).__name__}; give a tensor, a tuple or a dict of what the "
            "model's forward takes."
        )
    with raised_by(model, "when called on the inputs"):
        if isinstance(inputs, Tensor):
            return model(inputs)
        return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def inputs_of(batch: Batch) -> Inputs:
    """Return the part of a batch the model is called on."""
    if isinstance(batch, Mapping):
        return batch
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        inputs: Inputs = batch[0]
        return inputs
    raise LayerticketError(
        f"a batch is a {type(batch).__name__}; give (inputs, targets) or one dict the model takes."
    )


def logits_of(output: Any) -> Tensor:  # noqa: ANN401 - whatever the model returned
    """Pick the logits out of an output: the tensor itself, ``.logits``, or the first entry."""
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


@dataclass(frozen=True)
class CrossEntropy:
    """Mean cross-entropy of ``logits / temperature`` for a batch ``(inputs, targets)``."""

    temperature: float = 1.0
    """Divides the logits; dimensionless, > 0."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise LayerticketError(f"temperature is {self.temperature}; it must be > 0.")

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss as a scalar, in nats per example."""
        if isinstance(batch, Mapping):
            raise LayerticketError(
                "cross-entropy needs a batch (inputs, targets), got a dict; pass "
                "loss_fn=layerticket.model_loss for a model that returns its own loss."
            )
        logits = logits_of(call(model, inputs_of(batch)))  # (N, K) or (N, K, ...)
        exact = logits if logits.dtype == torch.double else logits.float()
        return F.cross_entropy(exact / self.temperature, batch[1])


def model_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss the model computes itself (``model(**batch).loss``), a scalar.

    Raises:
        LayerticketError: If the output carries no loss.
    """
    output = call(model, inputs_of(batch))
    loss = getattr(output, "loss", None)
    if not isinstance(loss, Tensor):
        raise LayerticketError(
            "the model's output has no `.loss`; put labels into the batch or pass loss_fn."
        )
    return loss


def map_tensors(tree: Any, fn: Callable[[Tensor], Any]) -> Any:  # noqa: ANN401 - any nesting
    """Apply `fn` to every tensor of nested tuples, lists and mappings; leave the rest as it is."""
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
    found: list[Tensor] = []
    map_tensors(tree, found.append)
    return found


def size_of(batch: Any) -> int:  # noqa: ANN401 - a batch or inputs
    """Return N, the number of examples, which is the first dimension of every tensor."""
    sizes = {tensor.shape[0] if tensor.ndim else 1 for tensor in tensors_of(batch)}
    if len(sizes) != 1:
        raise LayerticketError(
            f"cannot tell the number of examples: first dimensions are {sorted(sizes) or 'absent'}."
        )
    return sizes.pop()


def head(batch: Any, examples: int) -> Any:  # noqa: ANN401 - same type as given
    """Return the first `examples` examples where all tensors share N, else the batch as it is."""
    sizes = {tensor.shape[0] if tensor.ndim else 1 for tensor in tensors_of(batch)}
    return map_tensors(batch, lambda t: t[:examples]) if len(sizes) == 1 else batch


def split(batch: Batch, parts: int) -> list[tuple[float, Batch]]:
    """Cut a batch into `parts` micro-batches, each with its share of the examples.

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


def class_order(batch: Batch) -> Tensor | None:
    """Return the examples' indices (N,) sorted by class, equal ones in the order given.

    The classes are the targets, or in a dict the `labels`; None where they are not one whole
    number an example.
    """
    targets = batch.get("labels") if isinstance(batch, Mapping) else batch[1]
    if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point():
        return None
    return targets.argsort(stable=True)


def batch_digest(batch: Any) -> str:  # noqa: ANN401 - a batch or inputs
    """Return the SHA-256 over every tensor's type, shape and bytes, in order."""
    return tensor_digest({f"{index:06d}": t for index, t in enumerate(tensors_of(batch))})


def output_parts(output: Any) -> Any:  # noqa: ANN401 - whatever a module returns
    """Return the values of a mapping as a list; anything else as it is."""
    return list(output.values()) if isinstance(output, Mapping) else output


def first_tensor(output: Any) -> Tensor | None:  # noqa: ANN401 - whatever a module returns
    """Return the tensor a module's output is or begins with, if any."""
    if isinstance(output, Tensor):
        return output
    parts = output_parts(output)
    first = parts[0] if isinstance(parts, (tuple, list)) and parts else None
    return first if isinstance(first, Tensor) else None
