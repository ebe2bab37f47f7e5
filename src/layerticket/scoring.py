"""The one guarded door to every criterion: scores of blocks, of filters, of single weights.

A criterion runs on a protected view, so that the caller's weights, buffers, gradients, hooks, modes
and random states are as before, also when something raises; what comes back is checked and timed.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from layerticket.batch import (
    Batch,
    CrossEntropy,
    batch_digest,
    head,
    inputs_of,
    model_loss,
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
    criterion_names,
    get_criterion,
)
from layerticket.criteria.saliency import block_weights, network_weights, reduce_over_blocks
from layerticket.display import Shown, Table, few
from layerticket.errors import LayerticketError, unknown_name
from layerticket.modules import (
    network_of,
    preserved_random_state,
    reference_kernels,
    view_of,
    weight_versions,
)
from layerticket.surgery.channels import Group

logger = logging.getLogger(__name__)

Made = TypeVar("Made", bound="Scores")
Slices = Literal["filters", "all"]

ZERO_BRANCHES = (
    "Blocks whose last layer starts at zero (zero-initialized residual branches, the default of "
    "timm's ResNets) have no gradient at initialization. Ways out: build the model without them "
    "(timm:NAME,zero_init_last=False), take a batch that is not constant, or use criterion "
    "'random'."
)


@dataclass(frozen=True, kw_only=True, repr=False)
class Scores(Shown):
    """How scores came about."""

    criterion: str
    options: Mapping[str, object]
    """Every option of the criterion, defaults included, as JSON values."""
    batch_digest: str
    """SHA-256 of the scoring batch; of filters and weights empty where none was read."""
    examples: int
    """Number of examples in it."""
    seconds: float
    """Wall-clock time of the call."""
    values: Mapping[str, Any]
    """What was scored by name; higher = keep."""

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
    """First convolution of those coupled -> a score for each channel, higher = keep."""


def score(
    model: nn.Module,
    blocks: Blocks | Sequence[Block | str],
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
        blocks: What `find_blocks` found in it, or some of these blocks, or the names of some.
        batch: ``(inputs, targets)`` or a dict, on the model's device.
        criterion: A registered name, see `criterion_names`.
        normalization: `batch`: batch normalization uses the batch's statistics, as in training;
            `running`: its running averages, as in evaluation. Criteria depend on it; None: the
            criterion's own default, the first of ``get_criterion(criterion).normalization``.
        **options: The criterion's own options: `reduction` (`sum` or `mean` over a block's
            weights), `temperature` (divides the logits in the cross-entropy), `loss_fn`,
            `micro_batches`, `hessian`, `halves`, `redraw`, `draw`, ...

    Returns:
        The scores, checked to be finite, complete and not all equal.

    Raises:
        LayerticketError: If there is no block, an option is unknown, or the scores are
            degenerate; the message names the cause and the ways out.
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

    def values_of(view: nn.Module, arguments: Mapping[str, Any]) -> dict[str, float]:
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
        _check_values(
            criterion, "block", {n: torch.tensor(v, dtype=torch.double) for n, v in found.items()}
        )
        return found

    recorded = {"reduction": reduction} if single else {}
    return _guarded(BlockScores, known, model, batch, normalization, given, recorded, values_of)


def _as_blocks(model: nn.Module, given: Sequence[Block | str], batch: Batch) -> Blocks:
    """Take some blocks, or the names of some, for what is to be scored."""
    if isinstance(given, str):
        raise LayerticketError(f"blocks is the text {given!r}; give a list: [{given!r}].")
    blocks = tuple(block for block in given if isinstance(block, Block))
    if len(blocks) == len(given) > 0:
        return Blocks(removable=blocks, rejected=(), params=count_params(model), macs=0)
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
    """Score every single weight of the matrices of a network, which is left exactly as it was.

    Args:
        model: Network; not modified.
        batch: As in `score`.
        criterion: One that values single weights, see ``criterion_names("weights")``.
        normalization: As in `score`.
        **options: The criterion's own options.

    Raises:
        LayerticketError: As in `score`.
    """
    if criterion not in (allowed := criterion_names("weights")):
        raise unknown_name("criterion for weights", criterion, allowed)
    known = get_criterion(criterion)

    def values_of(view: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
        weights = network_weights(view)
        if not weights:
            raise LayerticketError("the network has no weight matrix, so no weight can go.")
        saliency = _saliency(known, view, weights, batch, arguments)
        found = {name: saliency[name].detach().double().cpu() for name in weights}
        _check_values(criterion, "weight", found)
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

    A channel's score is the sum over the weights that go with it, divided by the number of filters
    it takes along, so that channels of the residual stream, which run through a whole stage,
    compare with those inside a block. Cost: that of the criterion, once.

    Args:
        model: The dense network; not modified.
        groups: Its coupled channels.
        batch: As in `score`.
        criterion: One that values single weights, `l1` (their magnitude), or `random`.
        slices: `filters`: the weights of the filters that go; `all`: also those of the layers
            behind that read them. None: `filters` for l1, as Li et al. have it, `all` for the
            others.
        draw: Number of the draw of random.
        **options: Those of `score_weights`.

    Raises:
        LayerticketError: If the criterion or an option is unknown, or as in `score`.
    """
    if criterion not in (allowed := criterion_names("filters")):
        raise unknown_name("criterion for filters", criterion, allowed)
    if slices not in (None, "filters", "all"):
        raise LayerticketError(f"slices is {slices!r}; allowed are 'filters' and 'all'.")
    if criterion == "random":
        if slices or options:
            raise LayerticketError("criterion 'random' reads nothing; it has no option but draw.")
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
        raise LayerticketError(f"draw is {draw}, but only criterion 'random' draws.")
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
    """Let a criterion value single weights: for each weight tensor, one of its shape."""
    found = known.fn(view, weights, batch, **arguments)
    _check_names(known.name, "weight", list(weights), found)
    if odd := [name for name, weight in weights.items() if found[name].shape != weight.shape]:
        raise RuntimeError(
            f"criterion {known.name!r} gives values of shape {tuple(found[odd[0]].shape)} for "
            f"weight {odd[0]!r} of shape {tuple(weights[odd[0]].shape)}."
        )
    return found


def _over_channels(group: Group, values: Mapping[str, Tensor], slices: Slices) -> list[float]:
    """Sum what single weights are worth over the slices of every channel of a group."""
    total = torch.zeros(group.size, dtype=torch.double)
    for part in group.parts:
        value = values.get(f"{part.layer}.weight")
        if value is None or (part.side == "in" and slices == "filters"):
            continue
        along = 0 if part.side == "out" else 1
        sums = value.sum([d for d in range(value.ndim) if d != along])  # one figure an index
        total += torch.stack([sums[list(own)].sum() for own in part.indices])
    scores: list[float] = (total / len(group.filters)).tolist()
    return scores


def _guarded(
    made: type[Made],
    known: Criterion,
    model: nn.Module,
    batch: Batch,
    normalization: Normalization | None,
    given: Mapping[str, Any],
    recorded: Mapping[str, object],
    values_of: Callable[[nn.Module, Mapping[str, Any]], Mapping[str, Any]],
) -> Made:
    """Check the options, run the criterion on a protected view, time it, and fill in the record."""
    mode = normalization or known.normalization[0]
    if mode not in known.normalization:
        allowed = ", ".join(map(repr, known.normalization))
        raise LayerticketError(
            f"normalization is {mode!r}; allowed: {allowed} (criterion {known.name!r})."
        )
    of: Literal["blocks", "weights"] = "blocks" if made is BlockScores else "weights"
    model = network_of(model)
    _check_batch(batch)
    arguments = _options(known, of, batch, given)
    versions = weight_versions(model)
    started = time.perf_counter()
    with preserved_random_state(0), torch.enable_grad(), reference_kernels():
        view = _prepared_view(model, mode, int(arguments.get("micro_batches", 1)))
        values = values_of(view, arguments)
    seconds = time.perf_counter() - started
    if weight_versions(model) != versions:
        raise RuntimeError(
            f"criterion {known.name!r} wrote to the weights; it must only read them."
        )
    read = of == "blocks" or bool(known.uses)
    return made(
        criterion=known.name,
        values=values,
        options={**recorded, **_as_json(arguments), "normalization": mode},
        batch_digest=batch_digest(batch) if read else "",
        examples=size_of(batch) if read else 0,
        seconds=seconds,
    )


def _check_batch(batch: Batch) -> None:
    """Refuse a batch that no gradient can pass."""
    inputs_of(batch)
    if any(tensor.is_inference() for tensor in tensors_of(batch)):
        raise LayerticketError(
            "the batch holds a tensor made in torch.inference_mode(), which no gradient can pass. "
            "Give tensor.clone(), or make it outside of inference mode."
        )


def _options(
    known: Criterion, of: Literal["blocks", "weights"], batch: Batch, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Complete the options with the criterion's defaults; refuse unknown and contrary ones."""
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
    if "temperature" in options:
        if "loss_fn" in options:
            raise LayerticketError(
                "temperature and loss_fn are both given; temperature belongs to the cross-entropy "
                "layerticket takes when it is given no loss_fn. Choose one."
            )
        if own_loss:
            raise LayerticketError(
                f"temperature is {options['temperature']}, but the batch is a dict, whose loss the "
                "model computes itself. Pass a loss_fn(model, batch) that divides the logits, or "
                "leave temperature out."
            )
        options["loss_fn"] = CrossEntropy(temperature=options.pop("temperature"))
    elif "loss_fn" not in options and own_loss:
        options["loss_fn"] = model_loss
        cooled = getattr(defaults["loss_fn"], "temperature", 1.0)
        if cooled != 1:
            logger.warning(
                "%s takes the loss that the model computes itself, whose logits are not divided "
                "by its usual temperature of %g; pass a loss_fn that divides them to have that",
                known.name,
                cooled,
            )
    return defaults | options


def _prepared_view(model: nn.Module, normalization: str, micro_batches: int) -> nn.Module:
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


def _check_names(criterion: str, what: str, asked: Sequence[str], given: Mapping[str, Any]) -> None:
    """Refuse scores of other things than those that were asked about."""
    if set(given) != set(asked):
        missing, extra = sorted(set(asked) - set(given)), sorted(set(given) - set(asked))
        raise RuntimeError(
            f"criterion {criterion!r} must score exactly the {what}s given; "
            f"missing: {missing}, not asked for: {extra}."
        )


def _check_values(criterion: str, what: str, values: Mapping[str, Tensor]) -> None:
    """Refuse scores that are not finite or say nothing."""
    if bad := [name for name, value in values.items() if not value.isfinite().all()]:
        worst = values[bad[0]][~values[bad[0]].isfinite()].flatten()[0].item()
        raise LayerticketError(
            f"criterion {criterion!r} gives {worst} for {what} {bad[0]!r} ({len(bad)} of "
            f"{len(values)} {what}s). Check the inputs for NaN, and whether values overflow in "
            "this depth; criterion 'snip' or 'magnitude', or float64 weights, are the ways out."
        )
    first = next(iter(values.values())).flatten()[0]
    several = sum(value.numel() for value in values.values()) > 1
    if several and all(bool((value == first).all()) for value in values.values()):
        raise LayerticketError(
            f"criterion {criterion!r} gives {first.item()!r} for every {what}, which ranks "
            f"nothing. {ZERO_BRANCHES}"
        )


def _as_json(arguments: Mapping[str, Any]) -> dict[str, object]:
    """Show options in a record: plain values as they are, a loss by what it computes."""
    shown: dict[str, object] = {}
    for name, value in arguments.items():
        if name == "loss_fn":
            ours = isinstance(value, CrossEntropy)
            shown[name] = "cross_entropy" if ours else _name_of(value)
            shown["temperature"] = value.temperature if ours else None
        else:
            plain = isinstance(value, (str, int, float, bool)) or value is None
            shown[name] = value if plain else _name_of(value)
    return shown


def _name_of(value: object) -> str:
    return f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', value)}"
