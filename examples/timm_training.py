"""Train a ticket as timm's training script does: ``python examples/timm_training.py``.

That script is not part of timm's package; this example makes the same calls.
"""

import tempfile
from pathlib import Path

import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import CheckpointSaver, ModelEmaV3

import layerticket as lt
from layerticket.data.sources import load_data
from layerticket.lottery import draw_batch


def network() -> VisionTransformer:
    """Build the dense network."""
    return VisionTransformer(8, 2, 1, 10, embed_dim=48, depth=6, num_heads=3, drop_path_rate=0.1)


def main(folder: Path, epochs: int = 4, steps: int = 8) -> list[float]:
    """Find a ticket in a small ViT, train it as timm's script does, and load it again."""
    torch.manual_seed(0)
    digits = load_data("digits")
    dense = network()
    batch = draw_batch(digits, None, seed=0, balanced=True)
    ticket = lt.find_ticket(dense, batch, criterion="snip", budget=lt.Budget(remove=2))
    ticket.save(folder / "ticket")
    model = ticket.apply(dense).train()

    optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=epochs)
    mixup = Mixup(mixup_alpha=0.2, cutmix_alpha=0.0, label_smoothing=0.1, num_classes=10)
    average = ModelEmaV3(model, decay=0.9)
    loss_fn = SoftTargetCrossEntropy()
    saver = CheckpointSaver(model, optimizer, checkpoint_dir=folder, recovery_dir=folder)
    losses = []
    for epoch in range(epochs):
        for step in range(steps):
            images, labels = draw_batch(digits, 60, seed=epoch * steps + step, balanced=True)
            loss = loss_fn(*_mixed(model, mixup, images, labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update(model)
            losses.append(loss.item())
        scheduler.step(epoch + 1)
        saver.save_checkpoint(epoch)

    again = lt.load(folder / "ticket", network(), checkpoint=folder / "last.pth.tar")
    assert torch.equal(again.eval()(batch[0]), model.eval()(batch[0]))
    return losses


def _mixed(model, mixup, images, labels):
    images, targets = mixup(images, labels)
    return model(images), targets


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        losses = main(Path(folder))
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}; loaded again with equal outputs")
