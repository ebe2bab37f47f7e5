"""Train a ticket with several processes, by DDP and by FSDP2.

``python -m torch.distributed.run --nproc-per-node 2 examples/several_processes.py``
"""

import copy

import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import layerticket as lt
from layerticket.data.sources import load_data
from layerticket.lottery import draw_batch
from layerticket.models.load import build_model

STEPS = 3


def train(model: nn.Module, rank: int, ranks: int) -> None:
    """Train a few steps; each process uses its part of every batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    digits = load_data("digits")
    for step in range(STEPS):
        images, labels = draw_batch(digits, 40, seed=step, balanced=True)
        loss = F.cross_entropy(model(images[rank::ranks]), labels[rank::ranks])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def weights(model: nn.Module) -> torch.Tensor:
    """Return all weights as one vector."""
    parts = [p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters()]
    return torch.cat([part.detach().flatten() for part in parts])


def main() -> None:
    """Train the same ticket in one process, by DDP and by FSDP2, and compare."""
    distributed.init_process_group("gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    dense = build_model("resnet20", classes=10, channels=1, seed=0)  # the same on every process
    batch = draw_batch(load_data("digits"), None, seed=0, balanced=True)
    ticket = lt.find_ticket(dense, batch, criterion="grasp", budget=lt.Budget(remove=3))
    small = ticket.apply(dense).eval()  # in train mode, batch statistics differ by process
    single, wrapped, sharded = (copy.deepcopy(small) for _ in range(3))

    train(single, 0, 1)
    train(DistributedDataParallel(wrapped), rank, ranks)
    mesh = distributed.device_mesh.init_device_mesh("cpu", (ranks,))
    fully_shard(sharded, mesh=mesh)
    train(sharded, rank, ranks)

    moved = (weights(single) - weights(small)).abs().max().item()
    away = [(weights(m) - weights(single)).abs().max().item() for m in (wrapped, sharded)]
    if rank == 0:
        print(f"weights moved by {moved:.1e}; DDP is {away[0]:.0e} away, FSDP2 {away[1]:.0e}")
    assert max(away) < 1e-4 < moved
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
