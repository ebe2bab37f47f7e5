"""From a network and a ticket of layers to a mask on single weights that leaves as many of them."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from layerticket.batch import Batch, batch_digest, head, inputs_of, size_of
from layerticket.errors import LayerticketError
from layerticket.macs import count_params, module_macs
from layerticket.rivals.matching import match_record, require_same_network
from layerticket.rivals.saliency import Saliency
from layerticket.rivals.weights.ranking import keep_highest, kept_shares, prunable_weights
from layerticket.rivals.weights.record import WeightTicket
from layerticket.ticket import Ticket, architecture_digest, weights_digest
from layerticket.view import copy_of

__all__ = ["find_weight_ticket", "weights_to_keep", "write_down"]

SYNFLOW_ROUNDS = 100  # as in the paper


def find_weight_ticket(
    model: nn.Module,
    batch: Batch,
    *,
    criterion: str = "snip",
    reference: Ticket,
    rounds: int | None = None,
    name: str = "",
    seed: int | None = None,
    **options: Any,  # noqa: ANN401 - those of `Saliency`
) -> WeightTicket:
    """Mask single weights at initialization until as many parameters are left as in a ticket.

    The weights of linear layers, convolutions and embeddings are ranked over the whole network; all
    other parameters stay, see `prunable_weights`. With several rounds the masked network is scored
    anew after each, and round r of R leaves the share ``target ** (r / R)``. Cost: R scorings.

    Args:
        model: Dense network at theta_0; not modified.
        batch: ``(inputs, targets)`` on the model's device, to score on.
        criterion: One of snip, grasp, synflow, magnitude.
        reference: Ticket of the same network; its number of parameters is met exactly.
        rounds: Rounds of scoring and masking; None: 100 for synflow, as in its paper, else 1.
        name: What the network is built by; recorded.
        seed: Seed theta_0 was drawn with; recorded.
        **options: `normalization`, `temperature`, `micro_batches`, see `Saliency`.

    Returns:
        The rival; ``rival.apply(model)`` is the masked network.

    Raises:
        LayerticketError: If anything is unknown, a weight is tied, the saliencies are degenerate,
            or the reference is of another network or keeps fewer parameters than weights can give.

    References:
        Lee et al., ICLR 2019, arXiv:1810.02340; Wang et al., ICLR 2020, arXiv:2002.07376; Tanaka et
        al., NeurIPS 2020, arXiv:2006.05467, algorithm 1.
    """
    how = Saliency.named(criterion, options)
    architecture = architecture_digest(model)
    require_same_network(architecture, reference, name or type(model).__name__)
    started = time.perf_counter()
    weights = prunable_weights(model)
    masks = {n: torch.ones_like(w, dtype=torch.bool, device="cpu") for n, w in weights.items()}
    total, count = sum(w.numel() for w in weights.values()), weights_to_keep(model, reference)
    if rounds is None:
        rounds = SYNFLOW_ROUNDS if criterion == "synflow" else 1
    small = copy_of(model)
    for share in kept_shares(count / total, rounds):
        values = how.of(small, batch)
        saliency = {name: values[name] for name in masks}
        masks = keep_highest(saliency, masks, max(count, round(share * total)))
        _zero(small, masks)
    seconds = time.perf_counter() - started
    return write_down(
        model,
        head(inputs_of(batch), 1),
        masks,
        reference,
        model=name or type(model).__name__,
        criterion=criterion,
        options=how.record() | {"rounds": rounds},
        batch=batch_digest(batch) if how.reads_data else "",
        examples=size_of(batch) if how.reads_data else 0,
        seed=seed,
        score_seconds=seconds,
        init={key: value.detach().cpu().clone() for key, value in small.state_dict().items()},
    )


def weights_to_keep(model: nn.Module, reference: Ticket) -> int:
    """Return how many weights may stay for as many parameters in all as the reference has.

    Raises:
        LayerticketError: If biases and normalizations alone are as many.
    """
    ranked = sum(weight.numel() for weight in prunable_weights(model).values())
    count = reference.params["ticket"] - (count_params(model) - ranked)
    if not 0 < count < ranked:
        raise LayerticketError(
            f"the reference keeps {reference.params['ticket']:,} parameters, of the network's "
            f"{count_params(model):,} {ranked:,} are weights that may go. Take a ticket that "
            "removes fewer parameters, but some."
        )
    return count


def write_down(
    model: nn.Module,
    example: Any,  # noqa: ANN401 - whatever the model takes
    masks: Mapping[str, Tensor],
    reference: Ticket,
    /,
    **known: Any,  # noqa: ANN401 - the other fields of the record
) -> WeightTicket:
    """Write down what masks leave of a network."""
    macs = module_macs(model, example)
    gone = {name: int((~mask).sum()) for name, mask in masks.items()}
    dense = count_params(model)
    params = {"dense": dense, "ticket": dense - sum(gone.values())}
    sparse = _sparse_macs(model, macs, gone)
    figures = {
        "params": params | {"reference": reference.params["ticket"], "rival": params["ticket"]},
    }
    figures["params"].pop("ticket")
    return WeightTicket(
        architecture=architecture_digest(model),
        weights=weights_digest(model),
        macs={"dense": macs[""], "ticket": macs[""]},
        params=params,
        match=match_record("params", reference, figures),
        versions={"torch": torch.__version__},
        sparse_macs=sparse,
        removed=gone,
        masks=masks,
        **known,
    )


def _sparse_macs(model: nn.Module, macs: Mapping[str, int], gone: Mapping[str, int]) -> int | None:
    """MACs without those of pruned weights; None if a masked weight is no layer's own."""
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
    """Set the weights that are gone to zero, in place."""
    with torch.no_grad():
        for name, mask in masks.items():
            weight = network.get_parameter(name)
            weight.mul_(mask.to(weight.device))
