"""A network whose weights, gradients and momentum lie in parts on many devices (FSDP2).

Enters: an ordinary network on the CPU, "home". Leaves: a sharded copy, "away", that trains, and
home filled from it, so that checkpoints, validation and the caller see whole tensors only.
Refuses to know steps and files. Home costs every process the whole network in CPU memory.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from layerticket.errors import LayerticketError
from layerticket.training.checkpoint import fill_optimizer, optimizer_state

__all__ = ["bring", "send", "shard"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def shard(shell: nn.Module, device: torch.device, count: int) -> None:
    """Shard a module over all processes, in place: block by block, the rest with the module.

    Args:
        shell: Module on the CPU that is called in training; its buffers stay whole.
        device: Where this process computes.
        count: How many processes there are.

    Raises:
        LayerticketError: If a parameter is a scalar, which cannot be divided.
    """
    scalars = [name for name, parameter in shell.named_parameters() if not parameter.ndim]
    if scalars:
        raise LayerticketError(
            f"parameter {scalars[0]!r} is a scalar, which cannot be sharded. Give it the shape "
            "(1,), or train without sharding."
        )
    mesh = init_device_mesh(device.type, (count,))
    total = sum(parameter.numel() for parameter in shell.parameters())
    for unit in list(_units(shell, total)):
        fully_shard(unit, mesh=mesh)
    fully_shard(shell, mesh=mesh)
    for module in shell.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(
                name, buffer.to(device), persistent=name not in module._non_persistent_buffers_set
            )


def _units(module: nn.Module, total: int) -> Iterator[nn.Module]:
    """Modules gathered one at a time: the blocks, found by going through containers.

    A module with more than half of the parameters is gone into, one with less than a hundredth
    stays with the rest.
    """
    for child in module.children():
        size = sum(parameter.numel() for parameter in child.parameters())
        if isinstance(child, _CONTAINERS) or (2 * size > total and any(child.children())):
            yield from _units(child, total)
        elif 100 * size >= total:
            yield child


def send(home: nn.Module, own: Optimizer, away: nn.Module, stepping: Optimizer) -> None:
    """Fill the sharded network and its optimizer from whole ones that are equal everywhere."""
    targets = dict(away.named_parameters())
    with torch.no_grad():
        for name, whole in home.named_parameters():
            targets[name].copy_(_divided(whole, targets[name]))
        for name, buffer in away.named_buffers():
            buffer.copy_(home.get_buffer(name))
    for name, value in optimizer_state(home, own).items():
        owner, _, key = name.rpartition("/")
        like = targets[owner]
        stepping.state[like][key] = _divided(value, like) if value.ndim else value


def bring(home: nn.Module, own: Optimizer, away: nn.Module, stepping: Optimizer) -> None:
    """Fill whole network and optimizer from the sharded ones; all processes take part."""
    sources = dict(away.named_parameters())
    with torch.no_grad():
        for name, whole in home.named_parameters():
            whole.copy_(_whole(sources[name]))
        for name, buffer in home.named_buffers():
            buffer.copy_(away.get_buffer(name))
    state = {name: _whole(value) for name, value in optimizer_state(away, stepping).items()}
    fill_optimizer(home, own, state)


def _divided(whole: Tensor, like: Tensor) -> Tensor:
    """Divide a tensor that every process has whole as another one is divided."""
    if not isinstance(like, DTensor):
        return whole.detach().to(like.device)
    at = like.to_local().device
    return distribute_tensor(
        whole.detach().to(at).contiguous(), like.device_mesh, like.placements, src_data_rank=None
    )


def _whole(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, DTensor):
        return tensor.detach()
    whole: Tensor = tensor.full_tensor().detach().cpu()
    return whole
