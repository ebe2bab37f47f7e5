"""Rows of the table of speeds that need a GPU: what makes the training of a small network faster?

The time of a step of a small residual network is that of its kernel launches, about 600 for
ResNet-56. Rows measure what reduces it (compilation, a CUDA graph of the whole step, several
processes on one GPU), and the speed-up of a ticket in each case. Steps are those of a training.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from layerticket.baselines.filters import find_filter_ticket
from layerticket.baselines.weights import find_weight_ticket
from layerticket.data.dataset import noise
from layerticket.evaluation.timing import interleave
from layerticket.models.load import build_model
from layerticket.selection import Budget
from layerticket.ticket.find import find_ticket
from layerticket.training.recipe import Recipe
from layerticket.training.steps import TimedSteps, timed_steps
from reproduction import macs_ratio
from speed_row import NO_WAIT, Row, in_turns

SHAPE, CLASSES, BATCH, STEPS = (3, 32, 32), 10, 128, 20
DEPTHS = (20, 32, 56)
PROCESSES = (2, 4, 8)
WINDOW = 10  # seconds of training of several processes
HOW = {
    "eager": {"compile": "off", "cuda_graph": False},
    "compiled": {"compile": "on", "cuda_graph": False},
    "graph": {"compile": "off", "cuda_graph": True},
    "compiled-graph": {"compile": "on", "cuda_graph": True},
}


def network(depth: int) -> nn.Module:
    return build_model(f"resnet{depth}-projection", classes=CLASSES, channels=3, seed=0)


@contextmanager
def several(
    models: Mapping[str, nn.Module], how: str, device: str = "cuda"
) -> Iterator[dict[str, Callable[[], None]]]:
    """Lend 20 training steps of each network, as in a training, on one batch."""
    data = noise(SHAPE, classes=CLASSES, images=BATCH)
    recipe = Recipe(batch_size=BATCH, precision="bf16", **HOW[how])

    def done(steps: TimedSteps) -> None:
        for _ in range(STEPS):
            steps.step()
        steps.wait()

    with timed_steps(models, data, recipe, device=device) as lent:
        for steps in lent.values():
            done(steps)
            captured = steps._trainer._captured
            if HOW[how]["cuda_graph"] and (captured is None or captured._graph is None):
                raise RuntimeError(f"{how}: the step is not a CUDA graph")
        yield {name: partial(done, steps) for name, steps in lent.items()}


def images_per_second(depth: int, how: str, rounds: int) -> list[float]:
    with several({how: network(depth)}, how) as sides:
        seconds = interleave(sides, rounds=rounds, warmup=2)[how]
    return [STEPS * BATCH / taken for taken in seconds]


def over(depth: int, how: str, rounds: int, *, base: str = "eager") -> list[float]:
    """Return images per second, divided by those of another kind of steps."""
    models = {"": network(depth)}
    with several(models, base) as below, several(models, how) as above:
        return in_turns(below[""], above[""], rounds, warmup=2)


def ticket(kind: str, how: str, rounds: int, depth: int = 56, removed: int = 12) -> list[float]:
    """Return the speed-up of a ticket's step, divided by the ratio of MACs."""
    dense = network(depth)
    images = torch.randn(BATCH, *SHAPE, generator=torch.Generator().manual_seed(0))
    batch = images, torch.arange(BATCH) % CLASSES
    cut = find_ticket(dense, batch, criterion="snip", budget=Budget(remove=removed))
    if kind == "filters":
        cut = find_filter_ticket(dense, batch, criterion="snip", match="macs", reference=cut)
    if kind == "weights":
        cut = find_weight_ticket(dense, batch, criterion="snip", reference=cut)
    macs = cut.counted_macs
    with several({"dense": dense, "ticket": cut.apply(dense)}, how) as sides:
        ratios = in_turns(sides["dense"], sides["ticket"], rounds, warmup=2)
    return [ratio * macs["ticket"] / macs["dense"] for ratio in ratios]


WORKER = """
import sys, time
from contextlib import ExitStack
import speed_gpu
speed_gpu.STEPS, speed_gpu.BATCH = map(int, sys.argv[1:])
made, stack = {}, ExitStack()
for line in sys.stdin:
    if line not in made:
        depth, how, device = line.split()
        models = {"": speed_gpu.network(int(depth))}
        made[line] = stack.enter_context(speed_gpu.several(models, how, device))[""]
    train = made[line]
    train()
    print("ready", flush=True)
    end, count, start = float(sys.stdin.readline()), 0, time.monotonic()
    while time.monotonic() < end:
        train()
        count += speed_gpu.STEPS * speed_gpu.BATCH
    print(count / (time.monotonic() - start), flush=True)
"""
"""Trains until a moment that all processes are told; ``time.monotonic`` is that of the system."""


@cache
def worker(number: int) -> subprocess.Popen:
    """Start a process that trains when asked; it ends with this process."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(STEPS), str(BATCH)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def together(
    depth: int, how: str, processes: int, *, device: str = "cuda", seconds: float = WINDOW
) -> float:
    """Return the total images per second of several processes that train on one GPU."""
    chosen = [worker(number) for number in range(processes)]
    _tell(chosen, f"{depth} {how} {device}")
    if any(process.stdout.readline().strip() != "ready" for process in chosen):
        raise RuntimeError("a process ended before it trained")
    _tell(chosen, f"{time.monotonic() + seconds}")
    return sum(float(process.stdout.readline()) for process in chosen)


def _tell(processes: Sequence[subprocess.Popen], text: str) -> None:
    for process in processes:
        process.stdin.write(f"{text}\n")
        process.stdin.flush()


def several_processes(depth: int, how: str, processes: int, rounds: int) -> list[float]:
    """Return images per second of several processes on one GPU, divided by those of one."""
    values = []
    together(depth, how, processes, seconds=1)  # warms up
    for turn in range(rounds):
        counts = (1, processes) if turn % 2 == 0 else (processes, 1)
        speeds = {count: together(depth, how, count) for count in counts}
        values.append(speeds[processes] / speeds[1])
    return values


GPU_ROWS = (
    *(
        Row(
            name=f"gpu-eager-{depth}", gpu=True, unit="images/s", against="",
            what=f"steps of ResNet-{depth} on one batch of {BATCH}, bf16",
            measure=partial(images_per_second, depth, "eager"),
        )
        for depth in DEPTHS
    ),
    *(
        Row(
            name=f"gpu-{how}-{depth}", what=f"images/s of ResNet-{depth}, {said}",
            against="eager steps", measure=partial(over, depth, how), gpu=True,
            times=f"gpu-eager-{depth}",
        )
        for how, said in (("compiled", "compiled"), ("graph", "one CUDA graph per step"))
        for depth in DEPTHS
    ),
    *(
        Row(
            name=f"gpu-compiled-graph-{depth}", gpu=True,
            what=f"images/s of ResNet-{depth}, compiled, one CUDA graph per step",
            against="a CUDA graph without compilation",
            measure=partial(over, depth, "compiled-graph", base="graph"),
        )
        for depth in DEPTHS
    ),
    *(
        Row(
            name=f"gpu-processes-{depth}-{how}-{count}", gpu=True, rounds=4,
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
            what=f"speed-up of a step, ResNet-56, {kind} removed by SNIP, {how}",
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
