"""Rows of the table of speeds that need a GPU: what makes the training of a small network faster?

The time of a step of a small residual network is that of its kernel launches, 550 to 600 for
ResNet-56. Rows measure what reduces it (compilation, a CUDA graph of the whole step, several
processes on one GPU), and the speed-up of a ticket in each case.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from layerticket.baselines.filters import find_filter_ticket
from layerticket.counting import count_macs
from layerticket.evaluation.timing import interleave
from layerticket.models.load import build_model
from layerticket.selection import Budget
from layerticket.ticket.find import find_ticket
from speed_row import Row, in_turns

SHAPE, CLASSES, BATCH, STEPS = (3, 32, 32), 10, 128, 20
DEPTHS = (20, 32, 56)
PROCESSES = (2, 4, 8)


def network(depth: int) -> nn.Module:
    return build_model(f"resnet{depth}-projection", classes=CLASSES, channels=3, seed=0)


def a_batch(device: str = "cuda") -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, *SHAPE, generator=random).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    return images, (torch.arange(BATCH) % CLASSES).to(device)


def steps(model: nn.Module, how: str, device: str = "cuda") -> Callable[[], None]:
    """Return 20 training steps in bf16: `eager`, `compiled` or `graph` (a CUDA graph per step)."""
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, fused=True)
    images, labels = a_batch(device)

    def loss_of(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16):
            return F.cross_entropy(model(images).float(), labels)

    loss = torch.compile(loss_of) if how == "compiled" else loss_of

    def step() -> None:
        loss(images, labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=how != "graph")  # a graph keeps its own memory

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    one = captured(step) if how == "graph" else step

    def several() -> None:
        for _ in range(STEPS):
            one()
        wait()

    return several


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """Record all kernels of a step as one CUDA graph, which needs only one launch."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def images_per_second(depth: int, how: str, rounds: int) -> list[float]:
    seconds = interleave({how: steps(network(depth), how)}, rounds=rounds, warmup=2)[how]
    return [STEPS * BATCH / taken for taken in seconds]


def over_eager(depth: int, how: str, rounds: int) -> list[float]:
    """Return images per second, divided by those of eager steps."""
    sides = [steps(network(depth), one) for one in ("eager", how)]
    return in_turns(*sides, rounds, warmup=2)


def ticket(kind: str, how: str, rounds: int, depth: int = 56, removed: int = 12) -> list[float]:
    """Return the speed-up of a ticket's step, divided by the ratio of MACs."""
    dense = network(depth)
    batch = a_batch("cpu")
    cut = find_ticket(dense, batch, criterion="snip", budget=Budget(remove=removed))
    if kind == "filters":
        cut = find_filter_ticket(dense, batch, criterion="snip", match="macs", reference=cut)
    small = cut.apply(dense)
    macs = count_macs(dense, batch[0][:1]) / count_macs(small, batch[0][:1])
    ratios = in_turns(steps(dense, how), steps(small, how), rounds, warmup=2)
    return [ratio / macs for ratio in ratios]


ALONE = """
import sys, time, torch
from speed_gpu import BATCH, STEPS, network, steps
several = steps(network(int(sys.argv[1])), "eager")
several()
print("ready", flush=True)
sys.stdin.readline()
count, start = 0, time.perf_counter()
while time.perf_counter() - start < 10:
    several()
    count += STEPS * BATCH
print(count / (time.perf_counter() - start))
"""


def together(depth: int, processes: int) -> float:
    """Return the total images per second of several processes that train on one GPU."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", ALONE, str(depth)],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(processes)
    ]  # fmt: skip
    for process in started:
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError("a process ended before it trained")
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in started)


def several_processes(depth: int, processes: int, rounds: int) -> list[float]:
    """Return images per second of several processes on one GPU, divided by those of one."""
    values = []
    for turn in range(rounds):
        counts = (1, processes) if turn % 2 == 0 else (processes, 1)
        speeds = {count: together(depth, count) for count in counts}
        values.append(speeds[processes] / speeds[1])
    return values


GPU_ROWS = (
    *(
        Row(
            name=f"gpu-eager-{depth}", what=f"training ResNet-{depth}, bf16, batches of {BATCH}",
            against="", measure=partial(images_per_second, depth, "eager"), unit="images/s",
            gpu=True,
        )
        for depth in DEPTHS
    ),
    *(
        Row(
            name=f"gpu-{how}-{depth}", what=f"images/s of ResNet-{depth}, {said}",
            against="eager steps", measure=partial(over_eager, depth, how), gpu=True,
        )
        for how, said in (("compiled", "compiled"), ("graph", "one CUDA graph per step"))
        for depth in DEPTHS
    ),
    *(
        Row(
            name=f"gpu-processes-{depth}-{count}", gpu=True, rounds=3,
            what=f"images/s of ResNet-{depth}, {count} processes on one GPU", against="one process",
            measure=partial(several_processes, depth, count),
        )
        for depth in DEPTHS
        for count in PROCESSES
    ),
    *(
        Row(
            name=f"gpu-ticket-{kind}-{how}", gpu=True, against="ratio of MACs",
            what=f"speed-up of a step, ResNet-56, {kind} removed, {how}",
            measure=partial(ticket, kind, how), least=0.95 if kind == "blocks" else None,
            packages=() if kind == "blocks" else ("torch_pruning",),
        )
        for kind in ("blocks", "filters")
        for how in ("eager", "compiled", "graph")
    ),
)  # fmt: skip
