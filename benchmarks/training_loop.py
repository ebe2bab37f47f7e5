"""How fast is our loop next to a bare PyTorch loop? One ratio, measured in one run.

Both train the same network on the same images in the same precision, taking turns; the ratio is
the median over the turns of ours / bare, in images a second. Needs no data files.

    python benchmarks/training_loop.py --images 1280 --epochs 3 --repeats 3
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from layerticket.data.batches import batches
from layerticket.data.dataset import Augment, Dataset, Split
from layerticket.models.load import build_model
from layerticket.training.device import Where, resolve_device, resolve_precision
from layerticket.training.fit import fit
from layerticket.training.recipe import Recipe


def flag(name, default):
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


def random_data(images):
    random = torch.Generator().manual_seed(0)
    train, rest = (
        Split(
            images=torch.randint(256, (n, 3, 32, 32), generator=random, dtype=torch.uint8),
            labels=torch.randint(10, (n,), generator=random),
        )
        for n in (images, 10)
    )
    return Dataset(
        name="noise",
        title="Noise",
        train=train,
        validation=rest,
        test=rest,
        classes=10,
        mean=(0.5,) * 3,
        std=(0.29,) * 3,
        augment=Augment(pad=4, flip=True),
        fingerprint="noise",
    )


def new_model():
    return build_model("resnet20", classes=10, channels=3, seed=0)


def bare(data, recipe, device, precision):
    """Train in the plainest way, without logs, checks and checkpoints; images a second."""
    model = new_model().to(device, memory_format=torch.channels_last).train()
    split = data.train.to(device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )
    images_seen, start = 0, time.perf_counter()
    for epoch in range(recipe.epochs):
        for images, labels in batches(
            data,
            split,
            recipe.batch_size,
            seed=0,
            epoch=epoch,
            train=True,
            drop_last=True,
            channels_last=True,
        ):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = F.cross_entropy(model(images).float(), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            images_seen += len(labels)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return images_seen / (time.perf_counter() - start)


def ours(data, recipe, device):
    """Train with `fit`; images a second as it reports them, so without writing checkpoints."""
    model: nn.Module = new_model()
    with tempfile.TemporaryDirectory() as folder:
        result = fit(
            model, data, recipe, seed=0, folder=Path(folder), where=Where(device=str(device))
        )
    return result.images_per_second


def main():
    data = random_data(flag("--images", 1280))
    recipe = Recipe(epochs=flag("--epochs", 3), compile="off")
    device = resolve_device("auto")
    precision = resolve_precision("auto", device)
    bare(data, Recipe(epochs=1), device, precision)  # warm up
    ratios = []
    for turn in range(flag("--repeats", 3)):
        sides = [lambda: bare(data, recipe, device, precision), lambda: ours(data, recipe, device)]
        speeds = {i: sides[i]() for i in ((0, 1) if turn % 2 == 0 else (1, 0))}
        ratios.append(speeds[1] / speeds[0])
        print(f"bare {speeds[0]:.0f} images/s, ours {speeds[1]:.0f}", file=sys.stderr)
    print(f"{statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
