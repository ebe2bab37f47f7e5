"""`score()`: the single guarded door to every criterion.

It runs a criterion on a protected view, so that the caller's weights, buffers, gradients, hooks,
modes and random states are as before, also when something raises; it checks what comes back, and
times it. It knows no formula.
"""

import inspect
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from layerticket.batch import Batch, CrossEntropy, batch_digest, model_loss, size_of
from layerticket.blocks.block import Blocks
from layerticket.criteria.registry import Criterion, Normalization, get_criterion
from layerticket.errors import LayerticketError, unknown_name
from layerticket.modules import preserved_random_state, reference_kernels, view_of, weight_versions

ZERO_BRANCHES = (
    "Blocks whose last layer starts at zero (zero-initialized residual branches, the default of "
    "timm's ResNets) have no gradient at initialization. Ways out: build the model without them "
    "(timm:NAME,zero_init_last=False), take a batch that is not constant, or use criterion "
    "'random'."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockScores:
    """Scores of every removable block, and how they came about."""

    criterion: str
    values: Mapping[str, float]
    """Block name -> score, higher = keep, in the order of execution."""
    options: Mapping[str, object]
    """Every option of the criterion, defaults included, as JSON values."""
    batch_digest: str
    """SHA-256 of the scoring batch."""
    examples: int
    """Number of examples in it."""
    seconds: float
    """Wall-clock time of the call."""


def score(
    model: nn.Module,
    blocks: Blocks,
    batch: Batch,
    criterion: str = "grasp",
    *,
    normalization: Normalization | None = None,
    **options: Any,  # noqa: ANN401 - handed to the criterion, checked against its signature
) -> BlockScores:
    """Score every removable block of a network, which is left exactly as it was.

    Dropout and stochastic depth are off while scoring.

    Args:
        model: Network; not modified.
        blocks: What `find_blocks` found in it.
        batch: ``(inputs, targets)`` or a dict, on the model's device.
        criterion: A registered name, see `criterion_names`.
        normalization: `batch`: batch normalization uses the batch's statistics, as in training;
            `running`: its running averages, as in evaluation. Criteria depend on it; None: the
            criterion's own default, the first of ``get_criterion(criterion).normalization``.
        **options: The criterion's own options, e.g. `reduction`, `temperature` (short for
            ``loss_fn=CrossEntropy(temperature)``), `loss_fn`, `micro_batches`, `hessian`, `draw`.

    Returns:
        The scores, checked to be finite, complete and not all equal.

    Raises:
        LayerticketError: If there is no block, an option is unknown, or the scores are
            degenerate; the message names the cause and the ways out.
    """
    known = get_criterion(criterion)
    if not len(blocks):
        raise LayerticketError(
            "this network has no removable residual block, so there is nothing to score; "
            "see find_blocks(model, example).rejected for the reason each candidate must stay."
        )
    arguments = _options(known, batch, options)
    if normalization is None:
        normalization = known.normalization[0]
    if normalization not in known.normalization:
        allowed = ", ".join(repr(mode) for mode in known.normalization)
        raise LayerticketError(
            f"normalization is {normalization!r}; allowed: {allowed} (criterion {criterion!r})."
        )
    versions = weight_versions(model)
    started = time.perf_counter()
    with preserved_random_state(0), torch.enable_grad(), reference_kernels():
        view = prepared_view(model, normalization, int(arguments.get("micro_batches", 1)))
        values = known.fn(view, blocks, batch, **arguments)
    seconds = time.perf_counter() - started
    if weight_versions(model) != versions:
        raise RuntimeError(f"criterion {criterion!r} wrote to the weights; it must only read them.")
    _check(criterion, blocks, values)
    recorded = {name: _as_json(value) for name, value in arguments.items()}
    return BlockScores(
        criterion=criterion,
        values={block.name: float(values[block.name]) for block in blocks},
        options=recorded | {"normalization": normalization},
        batch_digest=batch_digest(batch),
        examples=size_of(batch),
        seconds=seconds,
    )


def _options(known: Criterion, batch: Batch, given: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the options with the criterion's defaults, and refuse unknown ones."""
    allowed = {
        name: parameter.default
        for name, parameter in inspect.signature(known.fn).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    options = dict(given)
    if "temperature" in options and "loss_fn" in allowed:
        if "loss_fn" in options:
            raise LayerticketError(
                "temperature and loss_fn are both given; temperature belongs to the cross-entropy "
                "layerticket takes when it is given no loss_fn. Choose one."
            )
        options["loss_fn"] = CrossEntropy(temperature=options.pop("temperature"))
    if unknown := sorted(set(options) - set(allowed)):
        names = [*allowed, "normalization"] + (["temperature"] if "loss_fn" in allowed else [])
        raise unknown_name(f"option of criterion {known.name!r}", unknown[0], names)
    if "loss_fn" in allowed and "loss_fn" not in options and isinstance(batch, Mapping):
        options["loss_fn"] = model_loss
    return allowed | options


def prepared_view(model: nn.Module, normalization: str, micro_batches: int) -> nn.Module:
    """Return a view in evaluation mode, its batch normalizations in the mode asked for."""
    view = view_of(model).eval()
    norms = [m for m in view.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if normalization == "batch" and norms:
        if micro_batches > 1:
            raise LayerticketError(
                f"micro_batches is {micro_batches}, but the network normalizes over the batch, so "
                "parts of a batch give other scores than the whole. Use micro_batches=1, or "
                "normalization='running'."
            )
        for norm in norms:
            norm.train()
    return view


def _check(criterion: str, blocks: Blocks, values: Mapping[str, float]) -> None:
    """Refuse scores that are incomplete, not finite, or say nothing."""
    names = [block.name for block in blocks]
    if set(values) != set(names):
        missing, extra = sorted(set(names) - set(values)), sorted(set(values) - set(names))
        raise RuntimeError(
            f"criterion {criterion!r} must score exactly the blocks given; "
            f"missing: {missing}, not asked for: {extra}."
        )
    if bad := [name for name in names if not math.isfinite(values[name])]:
        raise LayerticketError(
            f"criterion {criterion!r} gives {values[bad[0]]} for block {bad[0]!r} "
            f"({len(bad)} of {len(names)} blocks). Check the inputs for NaN, and whether values "
            "overflow in this depth; criterion 'snip' or float64 weights are the ways out."
        )
    if len(names) > 1 and len({float(values[name]) for name in names}) == 1:
        raise LayerticketError(
            f"criterion {criterion!r} gives {float(values[names[0]])!r} for every block, which "
            f"ranks nothing. {ZERO_BRANCHES}"
        )


def _as_json(value: object) -> object:
    """Show an option in a record: plain values as they are, a loss by what it computes."""
    if isinstance(value, CrossEntropy):
        return f"cross_entropy(logits / {value.temperature:g})"
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', value)}"
