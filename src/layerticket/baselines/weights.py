"""Weight pruning as a baseline: mask single weights at initialization, or in training rounds."""

import math
import time
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from layerticket.baselines.controls import match_record, require_same_network
from layerticket.batch import Batch, head, inputs_of
from layerticket.counting import count_params, module_macs
from layerticket.criteria.saliency import network_weights
from layerticket.errors import LayerticketError
from layerticket.lottery import origin_of
from layerticket.modules import copy_of
from layerticket.scoring import score_weights
from layerticket.surgery.masks import masked_optimizer, masked_state, plain_state
from layerticket.ticket.ticket import Ticket, architecture_digest, first_weights, weights_digest
from layerticket.training.checkpoint import Snapshot
from layerticket.training.recipe import Recipe

SYNFLOW_ROUNDS = 100  # as in the paper
KEPT = 0.8  # share of the weights that a round of magnitude pruning keeps
LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding, nn.EmbeddingBag)


def find_weight_ticket(
    model: nn.Module,
    batch: Batch,
    *,
    criterion: str = "snip",
    reference: Ticket,
    rounds: int | None = None,
    name: str = "",
    seed: int | None = None,
    **options: Any,  # noqa: ANN401 - the criterion's own, see `score_weights`
) -> Ticket:
    """Mask single weights at initialization until as many parameters stay as in a ticket.

    The weights of linear layers, convolutions and embeddings are ranked over the whole network; all
    other parameters stay, see `prunable_weights`. With several rounds, the masked network is scored
    again after each, and round r of R keeps the share ``target ** (r / R)``. Cost: R scorings.

    Args:
        model: Dense network at theta_0; not modified.
        batch: Scoring batch ``(inputs, targets)``, on the model's device.
        criterion: One that scores single weights: snip, grasp, synflow, magnitude.
        reference: Ticket of the same network; its number of parameters is matched exactly.
        rounds: Rounds of scoring and masking; None: 100 for synflow, as in its paper, else 1.
        name: Name that the network is built by; recorded.
        seed: Seed that drew theta_0; recorded.
        **options: Options of the criterion, such as `normalization` and `temperature`.

    Returns:
        A ticket of kind `masks`; ``ticket.apply(model)`` is the masked network.

    Raises:
        LayerticketError: If a name or option is unknown, a weight is tied, the saliencies are
            degenerate, or the reference belongs to another network or keeps too few parameters.

    References:
        Lee et al., ICLR 2019, arXiv:1810.02340; Wang et al., ICLR 2020, arXiv:2002.07376; Tanaka et
        al., NeurIPS 2020, arXiv:2006.05467, algorithm 1.
    """
    require_same_network(architecture_digest(model), reference, name or type(model).__name__)
    started = time.perf_counter()
    weights = prunable_weights(model)
    masks = {n: torch.ones_like(w, dtype=torch.bool, device="cpu") for n, w in weights.items()}
    total, count = sum(w.numel() for w in weights.values()), weights_to_keep(model, reference)
    if rounds is None:
        rounds = SYNFLOW_ROUNDS if criterion == "synflow" else 1
    small = copy_of(model)
    for share in kept_shares(count / total, rounds):
        scores = score_weights(small, batch, criterion, **options)
        saliency = {name: scores.values[name] for name in masks}
        masks = keep_highest(saliency, masks, max(count, round(share * total)))
        _zero(small, masks)
    return _masked(
        model,
        head(inputs_of(batch), 1),
        masks,
        reference,
        model=name or type(model).__name__,
        criterion=criterion,
        options={**scores.options, "rounds": rounds},
        batch=scores.batch_digest,
        examples=scores.examples,
        seed=seed,
        score_seconds=time.perf_counter() - started,
        init=first_weights(small),
    )


def next_mask_ticket(
    model: nn.Module,
    example: Any,  # noqa: ANN401 - whatever the model takes
    *,
    scored: Snapshot,
    rewind_to: Snapshot,
    within: Ticket | None,
    share: float,
    reference: Ticket,
    run: str,
    recipe: Recipe,
    name: str = "",
    seed: int | None = None,
) -> Ticket:
    """Run one round of iterative magnitude pruning: mask the smallest trained weights, rewind.

    The remaining weights are reset to theta_i. Each round except the last is then trained like any
    other ticket, and the next round scores the result.

    Args:
        model: Dense network with the architecture that was trained; not modified.
        example: Inputs to count MACs on.
        scored: End of the training of the dense or a masked network; where it has a running
            average, that is scored.
        rewind_to: Theta_i of the dense training, with its optimizer state and average.
        within: Ticket of the previous round; None: the dense network was trained.
        share: Share of all weights to keep in this round, but at least as many as the reference
            has; see `shares_of`.
        reference: Ticket of layers whose number of parameters is the target.
        run: Name of the training that was scored; recorded.
        recipe: Recipe of the training; recorded.
        name: Name that the network is built by; recorded.
        seed: Seed that drew theta_0; recorded.

    Returns:
        A ticket of kind `masks`, at theta_i.

    Raises:
        LayerticketError: If the weights do not fit, or no epoch would be left to train.

    References:
        Frankle & Carbin, "The Lottery Ticket Hypothesis", ICLR 2019, arXiv:1803.03635; rewinding:
        Frankle et al., ICML 2020, arXiv:1912.05671. Weights are ranked over the whole network.
    """
    origin = origin_of(run, recipe, scored=scored, rewind_to=rewind_to)
    started = time.perf_counter()
    state, weights = plain_state(scored.tested), prunable_weights(model)
    if state.keys() != model.state_dict().keys():
        raise LayerticketError(
            f"the weights of run {run!r} do not fit this {type(model).__name__}."
        )
    saliency = {n: state[n].abs().double() for n in weights}
    before = {n: torch.ones_like(state[n], dtype=torch.bool) for n in weights}
    total = sum(weight.numel() for weight in weights.values())
    count = max(weights_to_keep(model, reference), round(share * total))
    masks = keep_highest(saliency, within.masks if within else before, count)
    return _masked(
        model,
        example,
        masks,
        reference,
        model=name or type(model).__name__,
        criterion="imp",
        options={"share": share, "round": 1 if within is None else within.options["round"] + 1},
        batch="",
        examples=0,
        seed=seed,
        score_seconds=time.perf_counter() - started,
        init={n: t * masks[n] if n in masks else t for n, t in rewind_to.weights.items()},
        origin=origin,
        optimizer=masked_optimizer(rewind_to.optimizer, masks),
        average=masked_state(rewind_to.average, masks),
    )


def shares_of(model: nn.Module, reference: Ticket, rounds: int | None) -> tuple[float, ...]:
    """Return the shares of all weights kept after each round; the last matches the reference."""
    total = sum(weight.numel() for weight in prunable_weights(model).values())
    return kept_shares(weights_to_keep(model, reference) / total, rounds)


def prunable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weight tensors that can be masked, by name.

    These are the ``weight`` of linear layers, convolutions and embeddings. Class tokens, position
    embeddings that are bare parameters, layer scales, biases and normalizations are not masked, nor
    are the projections of ``nn.MultiheadAttention``, which uses them without calling a layer.

    Raises:
        LayerticketError: If one of them is tied, since its masks would differ.
    """
    modules = dict(model.named_modules())
    inside = [f"{n}." for n, m in modules.items() if isinstance(m, nn.MultiheadAttention)]
    found = {
        name: weight
        for name, weight in network_weights(model).items()
        if name.rpartition(".")[2] == "weight"
        and isinstance(modules[name.rpartition(".")[0]], LAYERS)
        and not any(name.startswith(attention) for attention in inside)
    }
    places = [id(p) for _, p in model.named_parameters(remove_duplicate=False)]
    if tied := [name for name, weight in found.items() if places.count(id(weight)) > 1]:
        raise LayerticketError(
            f"weight {tied[0]!r} is tied: this {type(model).__name__} uses it in several places, "
            "and masks would make its copies differ. Untie it in the network's configuration, or "
            "use filters or blocks as baselines."
        )
    return found


def weights_to_keep(model: nn.Module, reference: Ticket) -> int:
    """Return how many weights to keep for the same total of parameters as the reference."""
    ranked = sum(weight.numel() for weight in prunable_weights(model).values())
    count = reference.params["ticket"] - (count_params(model) - ranked)
    if not 0 < count < ranked:
        raise LayerticketError(
            f"the reference keeps {reference.params['ticket']:,} parameters, but only {ranked:,} "
            f"of the network's {count_params(model):,} are weights that can be masked. Use a "
            f"ticket that removes 1 to {ranked - 1:,} parameters."
        )
    return count


def kept_shares(target: float, rounds: int | None = None) -> tuple[float, ...]:
    """Return the share of weights kept after each round, down to `target`.

    Args:
        target: Share kept in the end, in (0, 1).
        rounds: Number of equal rounds; None: as many as needed if each keeps `KEPT` of the rest,
            and the last one less, as in Frankle & Carbin.

    Raises:
        LayerticketError: If a number is out of range.

    Example:
        >>> [round(share, 3) for share in kept_shares(0.5)]
        [0.8, 0.64, 0.512, 0.5]
        >>> [round(share, 3) for share in kept_shares(0.512, rounds=3)]
        [0.8, 0.64, 0.512]
    """
    if not 0 < target < 1 or (rounds is not None and rounds < 1):
        raise LayerticketError(
            f"target is {target}, rounds {rounds}; target must be between 0 and 1, and rounds at "
            "least 1."
        )
    if rounds is None:
        rounds = max(1, math.ceil(round(math.log(target) / math.log(KEPT), 9)))
        return (*(KEPT**number for number in range(1, rounds)), target)
    return (*(target ** (number / rounds) for number in range(1, rounds)), target)


def keep_highest(
    saliency: Mapping[str, Tensor], masks: Mapping[str, Tensor], count: int
) -> dict[str, Tensor]:
    """Keep exactly `count` of the remaining weights, those with the highest saliency.

    If saliencies are equal, the weight that is earlier in the network is pruned; a warning is given
    if this decides which weight is kept.
    """
    alive = torch.cat([masks[name].flatten() for name in saliency])
    left = int(alive.sum())
    if not 1 <= count <= left:
        raise LayerticketError(
            f"{count:,} of the {left:,} remaining weights would be kept; allowed are 1 to "
            f"{left:,}. The reference must keep fewer parameters than the network has, and more "
            "than its biases and normalizations."
        )
    values = torch.cat([saliency[name].flatten() for name in saliency])
    values = torch.where(alive, values, -math.inf)
    order = torch.argsort(values, stable=True)
    kept = torch.zeros_like(alive)
    kept[order[len(order) - count :]] = True
    _warn_of_ties(values, kept & alive, alive)
    flat = iter(torch.split(kept, [value.numel() for value in saliency.values()]))
    found = {name: next(flat).reshape(value.shape) for name, value in saliency.items()}
    _warn_of_empty_layers(found)
    return found


def _masked(
    model: nn.Module,
    example: Any,  # noqa: ANN401 - whatever the model takes
    masks: Mapping[str, Tensor],
    reference: Ticket,
    /,
    **known: Any,  # noqa: ANN401 - the other fields of the record
) -> Ticket:
    """Return the ticket of a masked network."""
    macs = module_macs(model, example)
    gone = {name: int((~mask).sum()) for name, mask in masks.items()}
    dense = count_params(model)
    left = dense - sum(gone.values())
    figures = {"dense": dense, "reference": reference.params["ticket"], "baseline": left}
    return Ticket(
        kind="masks",
        architecture=architecture_digest(model),
        weights=weights_digest(model),
        macs={"dense": macs[""], "ticket": macs[""]},
        params={"dense": dense, "ticket": left},
        match=match_record("params", reference, {"params": figures}),
        versions={"torch": torch.__version__},
        sparse_macs=_sparse_macs(model, macs, gone),
        removed=tuple(name for name, count in gone.items() if count),
        masks=masks,
        **known,
    )


def _sparse_macs(model: nn.Module, macs: Mapping[str, int], gone: Mapping[str, int]) -> int | None:
    """Return MACs without those of pruned weights; None if an embedding is masked."""
    left = macs[""]
    for name, count in gone.items():
        module = model.get_submodule(name.rpartition(".")[0])
        if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            if count:
                return None
            continue
        left -= macs[name.rpartition(".")[0]] * count // module.weight.numel()
    return left


def _zero(network: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the pruned weights to zero, in place."""
    with torch.no_grad():
        for name, mask in masks.items():
            weight = network.get_parameter(name)
            weight.mul_(mask.to(weight.device))


def _warn_of_ties(values: Tensor, kept: Tensor, alive: Tensor) -> None:
    gone = alive & ~kept
    if gone.any() and (ties := int((values[kept] == values[gone].max()).sum())):
        warnings.warn(
            f"{ties:,} kept weights have the same saliency as a pruned one; the later ones in the "
            "network were kept.",
            stacklevel=3,
        )


def _warn_of_empty_layers(masks: Mapping[str, Tensor]) -> None:
    if empty := [name for name, mask in masks.items() if not mask.any()]:
        warnings.warn(
            f"no weight is left in {', '.join(empty)}; the output of these layers is constant.",
            stacklevel=3,
        )
