"""Score blocks, filters or single weights by a criterion; the scores are checked and timed.

A criterion runs on a protected view, so that the caller's weights, buffers, gradients, hooks,
modes and random states stay unchanged, also if an error is raised.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from layerticket.batch import (
    IGNORED,
    Batch,
    BinaryCrossEntropy,
    CrossEntropy,
    batch_digest,
    head,
    inputs_of,
    logits_of,
    loss_named,
    model_loss,
    name_of_loss,
    size_of,
    tensors_of,
)
from layerticket.blocks.block import Block, Blocks
from layerticket.blocks.find import find_blocks
from layerticket.counting import count_params
from layerticket.criteria.registry import (
    Criterion,
    Normalization,
    Reduction,
    ZeroInit,
    criterion_names,
    get_criterion,
)
from layerticket.criteria.saliency import block_weights, network_weights, reduce_over_blocks
from layerticket.display import Shown, Table, few
from layerticket.errors import LayerticketError, unknown_name
from layerticket.modules import (
    in_eval_mode,
    network_of,
    preserved_random_state,
    preserved_stores,
    reference_kernels,
    view_of,
    weight_versions,
    with_plain_weights,
)
from layerticket.surgery.channels import Group

logger = logging.getLogger(__name__)

AnyScores = TypeVar("AnyScores", bound="Scores")
Slices = Literal["filters", "all"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Scores(Shown):
    """Scores, and how they were computed."""

    criterion: str
    options: Mapping[str, object]
    """All options of the criterion, including defaults, as JSON values."""
    batch_digest: str
    """SHA-256 of the scoring batch; empty for filters and weights if no batch was read."""
    examples: int
    """Number of examples in the batch."""
    seconds: float
    """Wall-clock time of the call."""
    values: Mapping[str, Any]
    """Scores by name; higher = keep."""

    def _headline(self) -> str:
        return f"{type(self).__name__} of {len(self.values)} by {self.criterion}"

    def _facts(self) -> dict[str, object]:
        return {"examples": self.examples, "seconds": f"{self.seconds:.3g}"}


@dataclass(frozen=True, kw_only=True, repr=False)
class BlockScores(Scores):
    """Scores of every removable block."""

    values: Mapping[str, float]
    """Block name -> score, higher = keep, in the order of execution."""

    def _facts(self) -> dict[str, object]:
        ranked = sorted(self.values, key=lambda name: self.values[name])
        return {**super()._facts(), "lowest first": few(ranked)}

    def _table(self) -> Table:
        return ("block", "score, higher = keep"), list(self.values.items())


@dataclass(frozen=True, kw_only=True, repr=False)
class WeightScores(Scores):
    """Scores of every single weight."""

    values: Mapping[str, Tensor]
    """Name of the weight tensor -> a tensor of its shape, higher = keep, on the CPU, float64."""


@dataclass(frozen=True, kw_only=True, repr=False)
class FilterScores(Scores):
    """Scores of every channel."""

    values: Mapping[str, list[float]]
    """First of the coupled convolutions -> a score for each channel, higher = keep."""


def score(
    model: nn.Module,
    blocks: Blocks | Sequence[Block | str],
    batch: Batch,
    criterion: str = "grasp",
    *,
    normalization: Normalization | None = None,
    zero_init: ZeroInit = "as-is",
    **options: Any,  # noqa: ANN401 - handed to the criterion, checked against its signature
) -> BlockScores:
    """Score every removable block of a network, which is not changed.

    Dropout and stochastic depth are off while scoring.

    Args:
        model: Network; not modified.
        blocks: The result of `find_blocks`, or some of its blocks or their names.
        batch: ``(inputs, targets)`` or a dict, on the model's device.
        criterion: A registered name, see `criterion_names`.
        normalization: `batch`: batch normalization uses the batch's statistics, as in training;
            `running`: its running averages, as in evaluation. Criteria depend on it; None: the
            criterion's own default, the first of ``get_criterion(criterion).normalization``.
        zero_init: `as-one`: gains of the blocks that are all zero count as one while scoring, since
            zero-initialized branches have no gradient; the network keeps its zeros. A gain is a
            vector or scalar that is not a bias.
        **options: The criterion's own options: `reduction` (`sum` or `mean` over a block's
            weights), `loss_fn` (``cross_entropy``, ``bce``, ``mse`` or a function of model and
            batch; by default cross-entropy, for one class per example only), `temperature`
            (divides the logits in the loss; for grasp 200, for snip 1),
            `micro_batches`, `hessian`, `halves`, `redraw`, `draw`, ...

    Returns:
        The scores, checked to be finite, complete and not all equal.

    Raises:
        LayerticketError: If there is no block, an option is unknown, or the scores are
            degenerate; the message gives the cause and what to do.
    """
    known = get_criterion(criterion)
    if not isinstance(blocks, Blocks):
        blocks = _as_blocks(network_of(model), blocks, batch)
    if not len(blocks):
        raise LayerticketError(
            "this network has no removable residual block, so there is nothing to score; "
            "see find_blocks(model, example).rejected for the reason each candidate must stay."
        )
    names = [block.name for block in blocks]
    given, single = dict(options), known.values == "weights"
    reduction: Reduction = given.pop("reduction", "sum") if single else "sum"
    if reduction not in ("sum", "mean"):
        raise LayerticketError(f"reduction is {reduction!r}; allowed are 'sum' and 'mean'.")

    if zero_init not in ("as-is", "as-one"):
        raise LayerticketError(f"zero_init is {zero_init!r}; allowed are 'as-is' and 'as-one'.")
    if zero_init != "as-is" and not known.uses:
        raise LayerticketError(
            f"zero_init is {zero_init!r}, but criterion {criterion!r} never runs the network. "
            "Leave zero_init out."
        )

    def values_of(view: nn.Module, arguments: Mapping[str, Any]) -> dict[str, float]:
        if zero_init == "as-one":
            _set_zero_gains_to_one(view, blocks)
        if single:
            owned = block_weights(view, blocks)
            scored = {name for own in owned.values() for name in own}
            weights = {name: w for name, w in network_weights(view).items() if name in scored}
            saliency = _saliency(known, view, weights, batch, arguments)
            values = reduce_over_blocks(saliency, owned, reduction)
        else:
            values = dict(known.fn(view, blocks, batch, **arguments))
            _check_names(criterion, "block", names, values)
        found = {name: float(values[name]) for name in names}
        exact = {n: torch.tensor(v, dtype=torch.double) for n, v in found.items()}
        _check_finite(criterion, "block", exact, view, batch)
        if len(found) > 1 and len(set(found.values())) == 1:
            raise LayerticketError(
                f"criterion {criterion!r} gives {found[names[0]]!r} for every block, so blocks "
                f"cannot be ranked. {_why_equal(criterion, found, view, blocks)}"
            )
        return found

    recorded: dict[str, object] = {"reduction": reduction} if single else {}
    recorded |= {"zero_init": zero_init} if zero_init == "as-one" else {}
    return _guarded(BlockScores, known, model, batch, normalization, given, recorded, values_of)


def _as_blocks(model: nn.Module, given: Sequence[Block | str], batch: Batch) -> Blocks:
    """Return the blocks to score, given blocks or names."""
    if isinstance(given, str):
        raise LayerticketError(f"blocks is the text {given!r}; give a list: [{given!r}].")
    blocks = tuple(block for block in given if isinstance(block, Block))
    if len(blocks) == len(given) > 0:
        return Blocks(removable=blocks, rejected=(), params=count_params(model), macs=None)
    found = find_blocks(model, head(inputs_of(batch), 1))
    return replace(found, removable=found.named(given) if given else ())


def score_weights(
    model: nn.Module,
    batch: Batch,
    criterion: str = "snip",
    *,
    normalization: Normalization | None = None,
    **options: Any,  # noqa: ANN401 - handed to the criterion, checked against its signature
) -> WeightScores:
    """Score every single weight of the matrices of a network, which is not changed.

    Args:
        model: Network; not modified.
        batch: ``(inputs, targets)`` or a dict, on the model's device.
        criterion: One that scores single weights, see ``criterion_names("weights")``.
        normalization: "batch" or "running", see `score`.
        **options: Options of the criterion.

    Raises:
        LayerticketError: If an option is unknown, or the scores are degenerate.
    """
    allowed = criterion_names("weights")
    if ":" not in criterion and criterion not in allowed:
        raise unknown_name("criterion for weights", criterion, allowed)
    known = get_criterion(criterion)
    if known.values != "weights":
        raise LayerticketError(
            f"criterion {criterion!r} scores blocks, not single weights. Register it with "
            'values="weights", and return a value for every weight.'
        )

    def values_of(view: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
        weights = network_weights(view)
        if not weights:
            raise LayerticketError(
                "the network has no weight matrix, so there is nothing to prune."
            )
        saliency = _saliency(known, view, weights, batch, arguments)
        found = {name: saliency[name].detach().double().cpu() for name in weights}
        _check_finite(criterion, "weight", found, view, batch)
        first = next(iter(found.values())).flatten()[0]
        several = sum(value.numel() for value in found.values()) > 1
        if several and all(bool((value == first).all()) for value in found.values()):
            raise LayerticketError(
                f"criterion {criterion!r} gives {first.item()!r} for every weight, so weights "
                f"cannot be ranked. {UNKNOWN_CAUSE}"
            )
        return found

    return _guarded(WeightScores, known, model, batch, normalization, options, {}, values_of)


def score_filters(
    model: nn.Module,
    groups: Sequence[Group],
    batch: Batch,
    criterion: str = "snip",
    *,
    slices: Slices | None = None,
    draw: int = 0,
    **options: Any,  # noqa: ANN401 - those of `score_weights`
) -> FilterScores:
    """Score every channel of every group of coupled channels.

    A channel's score is the sum over the weights removed with it, divided by the number of filters
    removed with it. So channels of the residual stream, which pass through a whole stage, can be
    compared with those inside a block. Cost: one run of the criterion.

    Args:
        model: The dense network; not modified.
        groups: Its coupled channels.
        batch: ``(inputs, targets)`` or a dict, on the model's device.
        criterion: One that scores single weights, `l1` (their magnitude), or `random`.
        slices: `filters`: the weights of the removed filters; `all`: also the weights of later
            layers that read them. None: `filters` for l1, as in Li et al., `all` for the
            others.
        draw: Number of the random draw.
        **options: Options of `score_weights`.

    Raises:
        LayerticketError: If the criterion or an option is unknown, or the scores are degenerate.
    """
    allowed = criterion_names("filters")
    if ":" not in criterion and criterion not in allowed:  # else `score_weights` checks it
        raise unknown_name("criterion for filters", criterion, allowed)
    if slices not in (None, "filters", "all"):
        raise LayerticketError(f"slices is {slices!r}; allowed are 'filters' and 'all'.")
    if criterion == "random":
        if slices or options:
            raise LayerticketError("criterion 'random' has no option except draw.")
        source = torch.Generator().manual_seed(draw)
        return FilterScores(
            criterion=criterion,
            values={
                group.root: torch.rand(group.size, generator=source, dtype=torch.double).tolist()
                for group in groups
            },
            options={"draw": draw},
            batch_digest="",
            examples=0,
            seconds=0.0,
        )
    if draw:
        raise LayerticketError(f"draw is {draw}, but only criterion 'random' uses it.")
    weights = score_weights(
        model, batch, "magnitude" if criterion == "l1" else criterion, **options
    )
    slices = slices or ("filters" if criterion == "l1" else "all")
    return FilterScores(
        criterion=criterion,
        values={group.root: _over_channels(group, weights.values, slices) for group in groups},
        options={"slices": slices, **weights.options},
        batch_digest=weights.batch_digest,
        examples=weights.examples,
        seconds=weights.seconds,
    )


def _saliency(
    known: Criterion,
    view: nn.Module,
    weights: Mapping[str, nn.Parameter],
    batch: Batch,
    arguments: Mapping[str, Any],
) -> Mapping[str, Tensor]:
    """Score single weights: return a tensor of the same shape for each weight tensor."""
    found = known.fn(view, weights, batch, **arguments)
    _check_names(known.name, "weight", list(weights), found)
    if odd := [name for name, weight in weights.items() if found[name].shape != weight.shape]:
        raise RuntimeError(
            f"criterion {known.name!r} gives values of shape {tuple(found[odd[0]].shape)} for "
            f"weight {odd[0]!r} of shape {tuple(weights[odd[0]].shape)}."
        )
    return found


def _over_channels(group: Group, values: Mapping[str, Tensor], slices: Slices) -> list[float]:
    """Sum the scores of single weights over the slices of every channel of a group."""
    total = torch.zeros(group.size, dtype=torch.double)
    for part in group.parts:
        value = values.get(f"{part.layer}.weight")
        if value is None or (part.side == "in" and slices == "filters"):
            continue
        along = 0 if part.side == "out" else 1
        sums = value.sum([d for d in range(value.ndim) if d != along])  # one value per index
        total += torch.stack([sums[list(own)].sum() for own in part.indices])
    scores: list[float] = (total / len(group.filters)).tolist()
    return scores


def _guarded(
    kind: type[AnyScores],
    known: Criterion,
    model: nn.Module,
    batch: Batch,
    normalization: Normalization | None,
    given: Mapping[str, Any],
    recorded: Mapping[str, object],
    values_of: Callable[[nn.Module, Mapping[str, Any]], Mapping[str, Any]],
) -> AnyScores:
    """Check the options, run and time the criterion on a protected view, and return its record."""
    mode = normalization or known.normalization[0]
    if mode not in known.normalization:
        allowed = ", ".join(map(repr, known.normalization))
        raise LayerticketError(
            f"normalization is {mode!r}; allowed: {allowed} (criterion {known.name!r})."
        )
    of: Literal["blocks", "weights"] = "blocks" if kind is BlockScores else "weights"
    model = network_of(model)
    _check_batch(batch)
    arguments = _options(known, of, batch, given)
    versions = weight_versions(model)
    started = time.perf_counter()
    with (
        preserved_stores(model),
        preserved_random_state(0),
        torch.enable_grad(),
        reference_kernels(),
    ):
        used = with_plain_weights(model) if of == "blocks" else model
        view = _prepared_view(used, mode, int(arguments.get("micro_batches", 1)))
        with _warn_of_missing_classes(view, batch, arguments.get("loss_fn")):
            values = values_of(view, arguments)
    seconds = time.perf_counter() - started
    if weight_versions(model) != versions:
        raise RuntimeError(f"criterion {known.name!r} changed the weights; it must only read them.")
    read = of == "blocks" or bool(known.uses)
    return kind(
        criterion=known.name,
        values=values,
        options={**recorded, **_as_json(arguments), "normalization": mode},
        batch_digest=batch_digest(batch) if read else "",
        examples=size_of(batch) if read else 0,
        seconds=seconds,
    )


def _check_batch(batch: Batch) -> None:
    """Raise if gradients cannot flow through a batch."""
    inputs_of(batch)
    if any(tensor.is_inference() for tensor in tensors_of(batch)):
        raise LayerticketError(
            "the batch has a tensor created in torch.inference_mode(), which has no gradients. "
            "Give tensor.clone(), or create it outside of inference mode."
        )


def _options(
    known: Criterion, of: Literal["blocks", "weights"], batch: Batch, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Complete the options with defaults; raise for unknown and contradicting ones."""
    if unknown := sorted(set(given) - set(known.option_names(of))):
        kind = "" if of == "blocks" else " on single weights"
        raise unknown_name(
            f"option of criterion {known.name!r}{kind}", unknown[0], known.option_names(of)
        )
    defaults, options = known.defaults, dict(given)
    if of == "weights":
        options |= known.exact
    if "loss_fn" not in defaults:
        return defaults | options
    own_loss = isinstance(batch, Mapping)
    usual = getattr(defaults["loss_fn"], "temperature", None)
    if isinstance(options.get("loss_fn"), str):
        name = options["loss_fn"]
        given_by_name = options.pop("temperature", None if name == "mse" else usual)
        options["loss_fn"] = loss_named(name, given_by_name)
    elif "temperature" in options:
        if "loss_fn" in options:
            raise LayerticketError(
                "temperature and loss_fn are both given, but temperature applies only to the "
                "default cross-entropy. Choose one."
            )
        if own_loss:
            raise LayerticketError(
                f"temperature is {options['temperature']}, but the batch is a dict, whose loss the "
                "model computes itself. Pass a loss_fn(model, batch) that divides the logits, or "
                "leave temperature out."
            )
        options["loss_fn"] = CrossEntropy(options.pop("temperature"), classes_only=True)
    elif "loss_fn" not in options and own_loss:
        options["loss_fn"] = model_loss
        if usual not in (None, 1):
            logger.warning(
                "%s uses the loss that the model computes itself, without its usual temperature of "
                "%g; for that, pass a loss_fn that divides the logits",
                known.name,
                usual,
            )
    return defaults | options


@contextlib.contextmanager
def _warn_of_missing_classes(view: nn.Module, batch: Batch, loss: object) -> Iterator[None]:
    """Log a warning if the loss is over classes, and the batch has no example of some of them."""
    outputs: list[int] = []

    def count(_: nn.Module, __: object, output: object) -> None:
        if not outputs:
            logits = logits_of(output)
            outputs.append(logits.shape[1] if logits.ndim > 1 else 1)

    targets = None if isinstance(batch, Mapping) else batch[1]
    classes = isinstance(targets, Tensor) and not targets.is_floating_point()
    if not (isinstance(loss, CrossEntropy) and classes):
        yield
        return
    with view.register_forward_hook(count):
        yield
    assert isinstance(targets, Tensor)
    present = torch.unique(targets[targets != IGNORED])
    if outputs and len(present) == 1 < outputs[0]:
        logger.warning(
            "all examples of the scoring batch have class %d, but the network has %d classes; give "
            "examples of every class",
            present.item(),
            outputs[0],
        )
    elif outputs and len(present) < outputs[0]:
        logger.warning(
            "the scoring batch has no example of %d of %d classes; give examples of every class",
            outputs[0] - len(present),
            outputs[0],
        )


def _prepared_view(model: nn.Module, normalization: str, micro_batches: int) -> nn.Module:
    """Return a view in evaluation mode, with batch normalizations in the given mode."""
    view = in_eval_mode(view_of(model))
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


def _check_names(
    criterion: str, what: str, expected: Sequence[str], given: Mapping[str, Any]
) -> None:
    """Raise if a criterion returned scores for other names than expected."""
    if set(given) != set(expected):
        missing, extra = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
        raise RuntimeError(
            f"criterion {criterion!r} must score exactly the {what}s given; "
            f"missing: {missing}, unexpected: {extra}."
        )


UNKNOWN_CAUSE = (
    "No cause was found: check whether the batch is constant, and whether the output depends on "
    "these weights. Criterion 'random' needs no score."
)


def _check_finite(
    criterion: str, what: str, values: Mapping[str, Tensor], view: nn.Module, batch: Batch
) -> None:
    """Raise if a score is not finite; the message gives the cause."""
    bad = [name for name, value in values.items() if not value.isfinite().all()]
    if not bad:
        return
    worst = values[bad[0]][~values[bad[0]].isfinite()].flatten()[0].item()
    floats = [tensor for tensor in tensors_of(batch) if tensor.is_floating_point()]
    weights = [n for n, p in view.named_parameters() if not p.isfinite().all()]
    if any(not tensor.isfinite().all() for tensor in floats):
        cause = "The batch has values that are not finite: correct the data."
    elif weights:
        cause = f"Weight {weights[0]!r} is not finite: start from other weights."
    else:
        others = [f"{name!r}" for name in ("snip", "magnitude") if name != criterion]
        cause = (
            "Batch and weights are finite, so values overflow or are undefined inside the network. "
            f"Try float64 weights, or criterion {' or '.join(others)}."
        )
    raise LayerticketError(
        f"criterion {criterion!r} gives {worst} for {what} {bad[0]!r} ({len(bad)} of {len(values)} "
        f"{what}s). {cause}"
    )


def _why_equal(criterion: str, values: Mapping[str, float], view: nn.Module, blocks: Blocks) -> str:
    """Explain why all blocks have the same score, if a cause is found, and what to do."""
    common = next(iter(values.values()))
    owned = _parameters_of(view, blocks)
    zeros = [f"{name}.{key}" for name, key, p in owned if p.ndim > 1 and not p.any()]
    if common == 0 and _zero_gains(view, blocks):
        return (
            "The blocks have gains that are zero (zero-initialized branches, the default of timm's "
            "ResNets), so their weights have no gradient. Score with gains of one "
            "(zero_init='as-one', --zero-init as-one), or build the model without zero gains "
            "(timm:NAME,zero_init_last=False)."
        )
    if common == 0 and zeros:
        return (
            f"Blocks have weights that are all zero ({zeros[0]}, {len(zeros)} of {len(owned)}), so "
            "their other weights have no gradient. Start from other weights."
        )
    if criterion == "hrank" and common in (1, min(blocks[0].shape[-2:], default=0)):
        return "Every feature map has full rank. Give larger images, or use expect_abs."
    if criterion in ("kl", "cka") and abs(common) < 1e-12:
        return (
            "Removing any one of the blocks does not change the compared output. Score by an "
            "output that depends on these blocks."
        )
    return UNKNOWN_CAUSE


def _parameters_of(view: nn.Module, blocks: Blocks) -> list[tuple[str, str, nn.Parameter]]:
    """List the parameters of blocks: name of the module, name in the module, parameter."""
    return [
        (f"{part}.{inner}".rstrip("."), key, parameter)
        for block in blocks
        for part in block.modules
        for inner, module in view.get_submodule(part).named_modules()
        for key, parameter in module.named_parameters(recurse=False)
    ]


def _zero_gains(view: nn.Module, blocks: Blocks) -> list[tuple[str, str, nn.Parameter]]:
    """List the vectors and scalars of blocks that are all zero and not a bias."""
    return [
        (name, key, parameter)
        for name, key, parameter in _parameters_of(view, blocks)
        if sum(size > 1 for size in parameter.shape) < 2
        and not parameter.any()
        and not any(word in key for word in ("bias", "beta"))
    ]


def _set_zero_gains_to_one(view: nn.Module, blocks: Blocks) -> None:
    """Replace parameters of the view that are zero gains by ones."""
    gains = _zero_gains(view, blocks)
    if not gains:
        raise LayerticketError(
            "zero_init is 'as-one', but no gain of these blocks is zero. Leave zero_init out."
        )
    for name, key, parameter in gains:
        view.get_submodule(name)._parameters[key] = nn.Parameter(torch.ones_like(parameter))


def _as_json(arguments: Mapping[str, Any]) -> dict[str, object]:
    """Return options for a record: plain values, and the name of a loss function."""
    shown: dict[str, object] = {}
    for name, value in arguments.items():
        if name == "loss_fn":
            shown[name] = name_of_loss(value) or _name_of(value)
            divides = isinstance(value, (CrossEntropy, BinaryCrossEntropy))
            shown["temperature"] = value.temperature if divides else None
        else:
            plain = isinstance(value, (str, int, float, bool)) or value is None
            shown[name] = value if plain else _name_of(value)
    return shown


def _name_of(value: object) -> str:
    return f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', value)}"
