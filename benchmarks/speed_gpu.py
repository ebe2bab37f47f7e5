"""Rows of the table of speeds that need a GPU: what makes the training of a small network faster?

The time of a step of a small residual network is that of its kernel launches, about 600 for
ResNet-56. Rows measure what reduces it (compilation, a CUDA graph of the whole step, several
processes on one GPU), and the speed-up of a ticket in each case. Kernels are those of training,
which give the same bits each time.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from layerticket.baselines.filters import find_filter_ticket
from layerticket.baselines.weights import find_weight_ticket
from layerticket.evaluation.timing import interleave
from layerticket.models.load import build_model
from layerticket.selection import Budget
from layerticket.ticket.find import find_ticket
from layerticket.training.device import repeatable_kernels
from reproduction import macs_ratio
from speed_row import NO_WAIT, Row, in_turns

SHAPE, CLASSES, BATCH, STEPS = (3, 32, 32), 10, 128, 20
DEPTHS = (20, 32, 56)
PROCESSES = (2, 4, 8)
WINDOW = 1.5  # seconds of training of several processes


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

    if how == "compiled":
        torch.compiler.reset()  # PyTorch compiles one function only eight times
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
        with repeatable_kernels():
            for _ in range(STEPS):
                one()
        wait()

    several.keeps = step  # a CUDA graph does not keep the tensors that it uses
    return several


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """Record all kernels of a step as one CUDA graph, which needs only one launch."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with repeatable_kernels():
        with torch.cuda.stream(aside):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(graph, stream=aside):
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
    if kind == "weights":
        cut = find_weight_ticket(dense, batch, criterion="snip", reference=cut)
    small, macs = cut.apply(dense), cut.counted_macs
    ratios = in_turns(steps(dense, how), steps(small, how), rounds, warmup=2)
    return [ratio * macs["ticket"] / macs["dense"] for ratio in ratios]


WORKER = """
import sys, time
from speed_gpu import BATCH, STEPS, network, steps
made = {}
for line in sys.stdin:
    depth, how, seconds = line.split()
    if (depth, how) not in made:
        made[depth, how] = steps(network(int(depth)), how)
    several = made[depth, how]
    several()
    print("ready", flush=True)
    sys.stdin.readline()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < float(seconds):
        several()
        count += STEPS * BATCH
    print(count / (time.perf_counter() - start), flush=True)
"""


@cache
def workers() -> list[subprocess.Popen]:
    """Start processes that train on one GPU when asked; they end with this process."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    return [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(max(PROCESSES))
    ]  # fmt: skip


def together(depth: int, how: str, processes: int) -> float:
    """Return the total images per second of several processes that train on one GPU."""
    chosen = workers()[:processes]
    _tell(chosen, f"{depth} {how} {WINDOW}")
    if any(process.stdout.readline().strip() != "ready" for process in chosen):
        raise RuntimeError("a process ended before it trained")
    _tell(chosen, "go")
    return sum(float(process.stdout.readline()) for process in chosen)


def _tell(processes: Sequence[subprocess.Popen], text: str) -> None:
    for process in processes:
        process.stdin.write(f"{text}\n")
        process.stdin.flush()


def several_processes(depth: int, how: str, processes: int, rounds: int) -> list[float]:
    """Return images per second of several processes on one GPU, divided by those of one."""
    values = []
    for turn in range(rounds):
        counts = (1, processes) if turn % 2 == 0 else (processes, 1)
        speeds = {count: together(depth, how, count) for count in counts}
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
            times=f"gpu-eager-{depth}",
        )
        for how, said in (("compiled", "compiled"), ("graph", "one CUDA graph per step"))
        for depth in DEPTHS
    ),
    *(
        Row(
            name=f"gpu-processes-{depth}-{how}-{count}", gpu=True, rounds=3,
            what=f"images/s of ResNet-{depth}, {how}, {count} processes on one GPU",
            against="one process", measure=partial(several_processes, depth, how, count),
        )
        for depth in DEPTHS
        for how in ("eager", "graph")
        for count in PROCESSES
    ),
    *(
        Row(
            name=f"gpu-ticket-{kind}-{how}", gpu=True,
            what=f"speed-up of a step, ResNet-56, {kind} removed, {how}",
            # A network with masks multiplies by its zeros too.
            against="ratio of MACs" + (" (1 with masks)" if kind == "weights" else ""),
            measure=partial(ticket, kind, how), least=0.95 if kind == "blocks" else None,
            packages=("torch_pruning",) if kind == "filters" else (),
            times="" if kind == "weights" else partial(macs_ratio, "resnet56-projection", 12),
            note=NO_WAIT,
            limit="A small network's step takes its time per operation, not per MAC: 586 of them "
            "for ResNet-56, 346 for the ticket (1.69 times fewer; MACs 1.82 times). A ticket of "
            "filters keeps all 586.",
        )
        for kind in ("blocks", "filters", "weights")
        for how in ("eager", "compiled", "graph")
    ),
)  # fmt: skip
