"""Seconds it takes to corrupt 10,000 images of 32x32 by every corruption, at every severity.

Images are drawn, smoothed noise: the cost does not depend on what they show. Nothing is cached.

    OMP_NUM_THREADS=1 python benchmarks/corruptions.py
"""

import argparse
import os
import time

import numpy as np
import torch
from scipy import ndimage

from layerticket.data.corruptions.recipe import EXTRA, SEVERITIES, STANDARD, corrupt


def drawn(count: int) -> torch.Tensor:
    noise = np.random.default_rng(0).standard_normal((count, 3, 32, 32))
    smooth = ndimage.gaussian_filter(noise, (0, 0, 2, 2)) * 4
    return torch.from_numpy(np.clip(127 + 60 * smooth, 0, 255).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    images = drawn(parser.parse_args().images)
    print(f"{len(images):,} images, {torch.get_num_threads()} thread(s), {os.cpu_count()} cores")
    totals = []
    for kind in (STANDARD, EXTRA):
        total = 0.0
        for name in ("frost_like" if name == "frost" else name for name in kind):
            start = time.perf_counter()
            for severity in SEVERITIES:
                corrupt(images, name, severity, seed=0)
            seconds = time.perf_counter() - start
            total += seconds
            print(f"  {name:18} {seconds:6.1f} s")
        totals.append(total)
    print(f"15 standard x 5 severities: {totals[0]:.0f} s; 4 extra x 5: {totals[1]:.0f} s")


if __name__ == "__main__":
    main()
