"""What does scoring by leaving blocks out cost? Two ratios, measured in one run.

Ours runs what lies before a block once (`LeaveOneOut`); the plain loop runs every network that
lacks a block. Those smaller networks are built beforehand and are not timed; what ours prepares
is. Both give the same outputs, bit for bit, which is checked. Turns alternate; the first line is
the median of time of ours / time of the loop, the second the ratio of multiply-accumulates,
counted by PyTorch, the third those of ours in forward passes of the whole network. No data needed.

    python benchmarks/prefix_sharing.py --depth 32 --images 100 --repeats 3
"""

import statistics
import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from layerticket.blocks.find import find_blocks
from layerticket.criteria.leave_one_out import LeaveOneOut
from layerticket.models.load import build_model
from layerticket.surgery.remove import remove_blocks


def flag(name, default):
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


def ours(model, blocks, images):
    network = LeaveOneOut(model, blocks, images)
    return [network.full.logits, *(network.without(block.name).logits for block in blocks)]


@torch.no_grad()
def loop(networks, images):
    return [network(images) for network in networks]


def timed(run, *args):
    start = time.perf_counter()
    outputs = run(*args)
    if outputs[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, outputs


def macs_of(run, *args):
    with FlopCounterMode(display=False) as counter:
        run(*args)
    return counter.get_total_flops() / 2


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    depth = flag("--depth", 32)
    model = build_model(f"resnet{depth}", classes=10, channels=3, seed=0).eval().to(device)
    random = torch.Generator().manual_seed(0)
    images = torch.randn(flag("--images", 100), 3, 32, 32, generator=random).to(device)
    blocks = find_blocks(model, images[:1])
    networks = [model, *(remove_blocks(model, [block]) for block in blocks)]
    sides = [lambda: timed(loop, networks, images), lambda: timed(ours, model, blocks, images)]
    for side in sides:
        side()  # warm up
    ratios = []
    for turn in range(flag("--repeats", 3)):
        taken = {i: sides[i]() for i in ((0, 1) if turn % 2 == 0 else (1, 0))}
        assert all(map(torch.equal, taken[0][1], taken[1][1])), "the outputs differ"
        ratios.append(taken[1][0] / taken[0][0])
        print(f"loop {taken[0][0]:.3f} s, ours {taken[1][0]:.3f} s", file=sys.stderr)
    macs = macs_of(ours, model, blocks, images)
    print(f"{statistics.median(ratios):.3f}")
    print(f"{macs / macs_of(loop, networks, images):.3f}")
    print(f"{macs / (blocks.macs * len(images)):.2f} of {len(blocks) + 1}")


if __name__ == "__main__":
    main()
