"""Train a ticket in a training loop of your own: ``python examples/plain_loop.py``."""

import tempfile
from pathlib import Path

import torch
from torch.nn import functional as F

import layerticket as lt
from layerticket.data.sources import load_data
from layerticket.lottery import draw_batch
from layerticket.models.load import build_model


def main(folder: Path, steps: int = 30) -> list[float]:
    """Find a ticket, train it, and load it again; return the losses."""
    digits = load_data("digits")
    dense = build_model("resnet20", classes=10, channels=1, seed=0)
    batch = draw_batch(digits, None, seed=0, balanced=True)
    ticket = lt.find_ticket(dense, batch, criterion="grasp", budget=lt.Budget(remove=3))
    ticket.save(folder / "ticket")
    model = ticket.apply(dense).train()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for step in range(steps):
        images, labels = draw_batch(digits, 60, seed=step, balanced=True)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    torch.save(model.state_dict(), folder / "trained.pt")

    dense = build_model("resnet20", classes=10, channels=1, seed=0)
    again = lt.load(folder / "ticket", dense, checkpoint=folder / "trained.pt")
    assert torch.equal(again.eval()(batch[0]), model.eval()(batch[0]))
    return losses


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        losses = main(Path(folder))
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}; loaded again with equal outputs")
