"""Mask weights of a network with `torch.nn.utils.prune`.

A masked layer computes ``weight = weight_orig * weight_mask`` at every call. Here ``weight_orig``
is also zero where the mask is zero, so that gradient, momentum and weight decay of a pruned weight
are zero at every step and the weight stays exactly zero, in memory and in every file.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from layerticket.errors import LayerticketError
from layerticket.modules import copy_of

ORIGINAL, MASK = "_orig", "_mask"


def masked(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of the dense network with masked weights; a mask is true for kept weights.

    A tied weight raises an error, since its masks would differ.
    """
    copy = copy_of(model)
    places = [id(p) for _, p in copy.named_parameters(remove_duplicate=False)]
    for name, mask in masks.items():
        owner, _, own = name.rpartition(".")
        parameter = dict(copy.named_parameters()).get(name)
        if parameter is None or parameter.shape != mask.shape or places.count(id(parameter)) > 1:
            raise LayerticketError(
                f"weight {name!r} cannot be masked: it is tied, not in this "
                f"{type(model).__name__}, or of another shape. Give the network that the masks "
                "were made for."
            )
        with torch.no_grad():  # so that the copy can be copied again
            prune.custom_from_mask(  # type: ignore[no-untyped-call]  # torch's own
                copy.get_submodule(owner), own, mask.to(parameter.device)
            )
            copy.get_parameter(name + ORIGINAL).mul_(mask.to(parameter.device))
    return copy


def permanent(network: nn.Module) -> nn.Module:
    """Make masks permanent, in place: pruned weights become ordinary zeros."""
    for module in network.modules():
        names = [n.removesuffix(ORIGINAL) for n in module._parameters if n.endswith(ORIGINAL)]
        for name in names:
            if name + MASK in module._buffers:
                prune.remove(module, name)  # type: ignore[no-untyped-call]  # torch's own
    return network


def plain_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of a masked network with the names and values of an ordinary one."""
    plain: dict[str, Tensor] = {}
    for name, tensor in state.items():
        stem = name.removesuffix(ORIGINAL)
        if stem + MASK in state and stem != name:
            plain[stem] = tensor * state[stem + MASK]
        elif not (name.endswith(MASK) and name.removesuffix(MASK) + ORIGINAL in state):
            plain[name] = tensor
    return plain


def masked_state(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of an ordinary network with the names and values of a masked one."""
    found = {name: tensor for name, tensor in state.items() if name not in masks}
    for name in state.keys() & masks.keys():
        mask = masks[name].to(state[name])
        found |= {name + ORIGINAL: state[name] * mask, name + MASK: mask}
    return found


def masked_optimizer(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the optimizer state of an ordinary network with names and zeros of a masked one."""
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        owner, _, kind = key.rpartition("/")
        if owner in masks:
            value = tensor * masks[owner] if tensor.shape == masks[owner].shape else tensor
            found[f"{owner}{ORIGINAL}/{kind}"] = value
        else:
            found[key] = tensor
    return found
