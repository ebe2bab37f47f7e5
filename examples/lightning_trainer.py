"""Train a ticket in a LightningModule: ``python examples/lightning_trainer.py``.

Needs pytorch-lightning.
"""

import tempfile
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import layerticket as lt
from layerticket.data.sources import load_data
from layerticket.lottery import draw_batch
from layerticket.models.load import build_model


class Classifier(pl.LightningModule):
    """Trains any network, dense or a ticket."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.losses: list[float] = []

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """Return the loss of one batch."""
        loss = F.cross_entropy(self.network(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def main(folder: Path, steps: int = 30) -> list[float]:
    """Find a ticket, train it with Lightning's Trainer, and load it again; return the losses."""
    digits = load_data("digits")
    images, labels = draw_batch(digits, 600, seed=0, balanced=True)
    dense = build_model("resnet20", classes=10, channels=1, seed=0)
    ticket = lt.find_ticket(
        dense, (images[:100], labels[:100]), criterion="grasp", budget=lt.Budget(remove=3)
    )
    ticket.save(folder / "ticket")
    module = Classifier(ticket.apply(dense))
    trainer = pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(images, labels), batch_size=60, shuffle=True))
    trainer.save_checkpoint(folder / "trained.ckpt")

    # With Lightning: load the module, built with the smaller network.
    dense = build_model("resnet20", classes=10, channels=1, seed=0)
    small = lt.load(folder / "ticket", dense)
    again = Classifier.load_from_checkpoint(folder / "trained.ckpt", network=small).network
    # Without Lightning: load only the network.
    alone = lt.load(folder / "ticket", dense, checkpoint=folder / "trained.ckpt")
    expected = module.network.eval()(images[:50])
    assert torch.equal(again.eval()(images[:50]), expected)
    assert torch.equal(alone.eval()(images[:50]), expected)
    return module.losses


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        losses = main(Path(folder))
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}; loaded again with equal outputs")
