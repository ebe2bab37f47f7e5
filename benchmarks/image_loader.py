"""How fast are images read from a folder, compared with torchvision's reference loader? One ratio.

Both loaders read the same JPEG files (made here, in the sizes of photographs) with the same number
of worker processes, and return normalized float32 batches of one size, cropped and mirrored at
random. They take turns; the figure is the median of the ratio ours / theirs, in images per second.
Theirs is the loader of torchvision's training script for classification: `ImageFolder` with Pillow,
`RandomResizedCrop`, `RandomHorizontalFlip`, `PILToTensor`, `ToDtype`, `Normalize`, and a
`DataLoader`. They treat an image differently: theirs resizes a part of it, ours resizes the whole
image and then crops it with a border.

    python benchmarks/image_loader.py --images 512 --side 224 --workers 2 --repeats 5
"""

import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from layerticket.data import Reading, from_folder
from layerticket.data.batches import batches

CLASSES = 4


def flag(name, default):
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


def photographs(home, count):
    """Write JPEG files of about 500 x 375 pixels with structure at many scales."""
    draws = np.random.default_rng(0)
    for number in range(count):
        height, width = draws.integers(300, 450), draws.integers(400, 600)
        layers = [
            Image.fromarray(draws.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize(
                (width, height), Image.Resampling.BICUBIC
            )
            for n in (4, 16, 64)
        ]
        picture = Image.blend(Image.blend(layers[0], layers[1], 0.4), layers[2], 0.3)
        folder = home / f"class{number % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{number:05d}.jpg", quality=90)


def theirs(home, data, side, batch, workers):
    """Return a function that reads one epoch with torchvision's reference loader."""
    steps = v2.Compose(
        [
            v2.RandomResizedCrop(side),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(data.mean, data.std),
        ]
    )
    loader = DataLoader(
        ImageFolder(str(home), transform=steps), batch, shuffle=True, num_workers=workers
    )
    return lambda: sum(len(images) for images, _ in loader)


def ours(data, batch):
    """Return a function that reads one epoch with our loader."""
    epochs = iter(range(10**6))
    return lambda: sum(
        len(images)
        for images, _ in batches(data, data.train, batch, seed=0, epoch=next(epochs), train=True)
    )


def timed(epoch):
    start = time.perf_counter()
    return epoch() / (time.perf_counter() - start)


def main():
    count, side, batch = flag("--images", 512), flag("--side", 224), flag("--batch", 64)
    workers, repeats = flag("--workers", 2), flag("--repeats", 5)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        photographs(home / "train", count)
        photographs(home / "test", CLASSES)
        reading = Reading(image_memory=1, readers=workers)
        data = from_folder(home, image_size=side, validation_fraction=0, reading=reading)
        epochs = {
            "theirs": theirs(home / "train", data, side, batch, workers),
            "ours": ours(data, batch),
        }
        for epoch in epochs.values():
            epoch()  # the first time, files are read from disk
        rates = {name: [] for name in epochs}
        for _ in range(repeats):
            for name, epoch in epochs.items():
                rates[name].append(timed(epoch))
    ratios = [one / other for one, other in zip(rates["ours"], rates["theirs"], strict=True)]
    record = {
        "images_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "workers": workers,
        "side": side,
        "cpu": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
