"""Rows of the table of speeds that need no GPU: tickets, training, studies, commands."""

import itertools
import operator
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import bill
import plain_corruptions
from layerticket.batch import head
from layerticket.blocks.find import find_blocks
from layerticket.counting import count_macs
from layerticket.criteria.leave_one_out import LeaveOneOut
from layerticket.criteria.saliency import network_weights
from layerticket.data.batches import batches
from layerticket.data.corruptions import recipe as corruptions
from layerticket.data.dataset import Dataset, noise
from layerticket.data.sources import load_data
from layerticket.evaluation.energy import metered
from layerticket.evaluation.timing import interleave
from layerticket.files import write_json
from layerticket.models.load import build_model
from layerticket.scoring import score
from layerticket.selection import Budget
from layerticket.study.folder import StudyFolder
from layerticket.study.job import JobRunner
from layerticket.study.methods import TicketMethod
from layerticket.study.plan import unfold
from layerticket.study.record import Bill, Cost
from layerticket.study.running.executors import cores
from layerticket.study.search import Search, find
from layerticket.study.status import study_status
from layerticket.study.toml import study_of, study_text
from layerticket.study.train import Networks, train_network
from layerticket.surgery.remove import remove_blocks
from layerticket.ticket.find import find_ticket
from layerticket.training.device import (
    Metering,
    Where,
    compile_pays,
    place,
    resolve_precision,
)
from layerticket.training.fit import fit
from layerticket.training.recipe import Recipe
from layerticket.training.steps import Trainer, timed_steps
from reproduction import macs_ratio
from speed_row import NO_WAIT, Row, in_turns

CPU = torch.device("cpu")
STATED = Metering(cpu_tdp=100.0, carbon_intensity=0.381)
CLI = [sys.executable, "-m", "layerticket.cli"]
SHAPE, CLASSES = (3, 32, 32), 10


# Finding a ticket


def scoring(depth: int, images: int = 250):
    """Return a CIFAR ResNet at initialization, its blocks and a scoring batch."""
    model = build_model(f"resnet{depth}", classes=CLASSES, channels=3, seed=0)
    inputs = torch.randn(images, *SHAPE, generator=torch.Generator().manual_seed(0))
    return model, find_blocks(model, inputs[:1]), (inputs, torch.arange(images) % CLASSES)


def vit(name: str = "vit_tiny_patch16_224", size: int = 32, patch: int = 4):
    """Return a vision transformer of timm."""
    import timm

    torch.manual_seed(0)
    return timm.create_model(name, num_classes=CLASSES, img_size=size, patch_size=patch)


def gradient(model: nn.Module, batch) -> Callable[[], object]:
    """Return a function that computes one gradient of the loss for every weight matrix."""
    weights = list(network_weights(model).values())
    inputs, labels = batch
    model.train()
    return lambda: torch.autograd.grad(F.cross_entropy(model(inputs), labels), weights)


def criterion(name: str, depth: int, rounds: int, **options: object) -> list[float]:
    """Score the blocks of a ResNet, against one gradient of the same batch."""
    model, blocks, batch = scoring(depth)
    ours = partial(score, model, blocks, batch, name, **options)
    return in_turns(ours, gradient(model, batch), rounds)


def grasp_vit(rounds: int) -> list[float]:
    model = vit()
    batch = torch.randn(100, *SHAPE), torch.arange(100) % CLASSES
    blocks = find_blocks(model, batch[0][:1])
    ours = partial(score, model, blocks, batch, "grasp")
    return in_turns(ours, gradient(model, batch), rounds)


def discovery_resnet56(rounds: int) -> list[float]:
    model, _, batch = scoring(56)
    return in_turns(lambda: find_blocks(model, batch[0][:1]), gradient(model, batch), rounds)


def discovery(build: Callable[[], nn.Module], rounds: int) -> list[float]:
    """Find blocks at 224 x 224 pixels, against one forward pass of one image."""
    model, image = build().eval(), torch.randn(1, 3, 224, 224)
    forward = torch.no_grad()(partial(model, image))
    return in_turns(lambda: find_blocks(model, image), forward, rounds)


def resnet152() -> nn.Module:
    return build_model("torchvision:resnet152", classes=1000, channels=3, seed=0)


def leave_one_out(rounds: int, depth: int = 56, images: int = 100) -> list[float]:
    """Compute the outputs without each block, against one forward pass; per block."""
    model, blocks, (inputs, _) = scoring(depth, images)
    model.eval()

    def ours() -> list[torch.Tensor]:
        network = LeaveOneOut(model, blocks, inputs)
        return [network.full.logits, *(network.without(block.name).logits for block in blocks)]

    with torch.no_grad():
        plain = [model(inputs), *(remove_blocks(model, [block])(inputs) for block in blocks)]
    if not all(map(torch.equal, ours(), plain)):
        raise RuntimeError("the outputs differ from those of the networks without a block")
    forward = torch.no_grad()(partial(model, inputs))
    return [ratio / len(blocks) for ratio in in_turns(ours, forward, rounds)]


def seconds_of(case) -> float:
    """Return CPU seconds of finding the blocks of a network and scoring them with GraSP."""
    model, _, batch = case
    start = time.process_time()
    score(model, find_blocks(model, head(batch[0], 1)), batch, "grasp")
    return time.process_time() - start


def depth(rounds: int) -> list[float]:
    """Return R2 of a linear fit of CPU seconds of finding and scoring to the number of blocks."""
    cases = [scoring(depth, 8) for depth in (20, 32, 44, 56, 110, 1202)]
    counts = [len(blocks) for _, blocks, _ in cases]
    seconds_of(cases[0])  # the first run loads what all need
    every = [list(map(seconds_of, cases)) for _ in range(rounds)]
    return [float(np.corrcoef(counts, seconds)[0, 1] ** 2) for seconds in every]


def depth_per_block(rounds: int) -> list[float]:
    """Return CPU seconds per block of ResNet-1202, divided by those of ResNet-110."""
    cases = [scoring(depth, 8) for depth in (1202, 110)]
    blocks = len(cases[0][1]) / len(cases[1][1])
    values = []
    for turn in range(-1, rounds):  # the first one is not counted: it loads what both need
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        seconds = {place: seconds_of(cases[place]) for place in order}
        values.append(seconds[0] / seconds[1] / blocks)
    return values[1:]


# Training


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )


class Bare:
    """The simplest loop over the batches of a data set: no logs, no checks, no checkpoints."""

    def __init__(self, data: Dataset, recipe: Recipe, model: nn.Module, *, compiled: bool) -> None:
        self.data, self.recipe, self.model = data, recipe, model.train()
        place(model, CPU, channels_last=True)
        self.bf16 = resolve_precision(recipe.precision, CPU) == "bf16"
        self.optimizer = optimizer_of(model)
        self.loss = torch.compile(self._loss) if compiled else self._loss

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits = self.model(images).float()
            return F.cross_entropy(logits, labels)

    def steps(self, number: int = 0) -> Iterator[None]:
        """Train one epoch; yield after each step."""
        how = {"train": True, "drop_last": True, "channels_last": True}
        split = self.data.train
        size = min(self.recipe.batch_size, len(split))
        for images, labels in batches(self.data, split, size, seed=0, epoch=number, **how):
            self.loss(images, labels).backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            yield

    def epoch(self, number: int = 0) -> None:
        """Train one epoch."""
        for _ in self.steps(number):
            pass


def resnet32() -> nn.Module:
    return build_model("resnet32", classes=CLASSES, channels=3, seed=0)


def best_bare(data: Dataset, batch_size: int) -> Bare:
    """Return the fastest bare loop: of both precisions, then compiled or not."""

    def fastest(loops: Iterable[Bare]) -> Bare:
        sides = {str(place): loop for place, loop in enumerate(loops)}
        taken = interleave({name: loop.epoch for name, loop in sides.items()}, rounds=3)
        return sides[min(taken, key=lambda name: min(taken[name]))]

    def loop(precision: str, *, compiled: bool) -> Bare:
        recipe = Recipe(batch_size=batch_size, precision=precision)
        return Bare(data, recipe, resnet32(), compiled=compiled)

    eager = fastest(loop(precision, compiled=False) for precision in ("bf16", "fp32"))
    return fastest([eager, loop(eager.recipe.precision, compiled=True)])


def beside_training(
    data: Dataset, recipe: Recipe, other: Iterator[object], every: int
) -> list[float]:
    """Return seconds of an epoch of another loop, divided by ours with checkpoint and metering.

    The two take turns of `every` steps, for which `other` is advanced once. An epoch is the sum of
    its turns; ours begins with the end of the epoch before: metrics, meter and checkpoint.
    """
    ours, others, began = [], [], [time.perf_counter()]
    plain, done = Trainer.step, itertools.count(1)

    def step(trainer: Trainer, *batch: object) -> torch.Tensor:
        loss = plain(trainer, *batch)
        if next(done) % every == 0:
            for seconds in (ours, others):
                seconds.append(time.perf_counter() - began[0])
                began[0] = time.perf_counter()
                if seconds is ours:
                    next(other)
        return loss

    where = Where(metering=STATED)
    Trainer.step = step
    try:
        with tempfile.TemporaryDirectory() as folder, metered(where) as (meter, _):
            model = build_model("resnet32", classes=data.classes, channels=data.shape[0], seed=0)
            fit(model, data, recipe, seed=0, folder=Path(folder), where=where, meter=meter)
    finally:
        Trainer.step = plain
    turns = len(data.train) // recipe.batch_size // every
    sums = [
        [sum(seconds[start : start + turns]) for start in range(0, len(seconds), turns)]
        for seconds in (others, ours)
    ]
    return [b / a for b, a in zip(*sums, strict=True)][1:]  # the first epoch compiles


def long_run() -> str:
    """Return the setting `compile` that a training of 200 epochs of CIFAR-10 would use."""
    pays = compile_pays("auto", 200 * 351, CPU)
    return "on" if pays else "off"


def training(rounds: int, images: int = 12_800, every: int = 5) -> list[float]:
    """Epochs long enough that what is done once an epoch weighs at most 4 times as in CIFAR-10."""
    data, few = (noise(SHAPE, classes=CLASSES, images=count) for count in (images, 2560))
    bare = best_bare(few, 128)
    bare.data = data
    steps = itertools.chain.from_iterable(map(bare.steps, itertools.count()))
    turns = iter(lambda: [next(steps) for _ in range(every)], None)
    return beside_training(data, Recipe(epochs=rounds + 1, compile=long_run()), turns, every)


def compiling(rounds: int) -> list[float]:
    """Seconds of compiling ResNet-32, over the seconds that a step then saves.

    Each round is a new process with an empty cache, since the compiler also remembers in memory.
    """
    values = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            code = "import speed_rows; speed_rows.compile_once()"
            found = _ran(["-c", code], threads=cores(), TORCHINDUCTOR_CACHE_DIR=cache)
            values.append(float(found))
    return values


def compile_once(images: int = 1280, rounds: int = 9) -> None:
    """Print the number of steps whose savings equal the time of compiling, in this process."""
    data, steps = noise(SHAPE, classes=CLASSES, images=images), images // 128
    eager, compiled = (Bare(data, Recipe(), resnet32(), compiled=how) for how in (False, True))
    eager.epoch()  # loads what both need
    start = time.perf_counter()
    compiled.epoch()
    first = time.perf_counter() - start
    taken = interleave({"eager": eager.epoch, "compiled": compiled.epoch}, rounds=rounds)
    once = first - min(taken["compiled"])
    saved = statistics.median(map(operator.sub, taken["eager"], taken["compiled"])) / steps
    if saved <= 0:
        raise RuntimeError(f"a compiled step is not faster here: it saves {saved:.2g} s")
    print(once / saved)


def script(data: Dataset, batch_size: int) -> Iterator[None]:
    """Train as in tutorials: images augmented one by one, float32, NCHW; yield after each epoch."""
    from torch.utils.data import DataLoader
    from torchvision import transforms

    change = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomCrop(SHAPE[1], padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(data.mean, data.std),
        ]
    )
    images, labels = data.train.fetch(slice(None)), data.train.labels.tolist()
    model = resnet32().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(
        _Changed(images, labels, change), batch_size, shuffle=True, drop_last=True, num_workers=2
    )

    while True:
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
        yield


class _Changed(torch.utils.data.Dataset):
    def __init__(self, images, labels, change) -> None:
        self.images, self.labels, self.change = images, labels, change

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.change(self.images[index]), self.labels[index]


def training_script(rounds: int, images: int = 6400) -> list[float]:
    """Turns are whole epochs, as the script's workers read ahead only within an epoch."""
    data = noise(SHAPE, classes=CLASSES, images=images)
    recipe = Recipe(epochs=rounds + 1, compile=long_run())
    return beside_training(data, recipe, script(data, 128), images // 128)


def ticket_step(rounds: int, depth: int = 56, removed: int = 12) -> list[float]:
    """Return the speed-up of a training step, divided by the ratio of MACs."""
    steps, macs = _steps(depth, removed)
    with steps as lent:
        ratios = in_turns(lent["dense"].step, lent["ticket"].step, rounds, warmup=4)
    return [ratio / macs for ratio in ratios]


def _steps(depth: int, removed: int):
    """Return steps of a network and of its GraSP ticket, and the ratio of their MACs."""
    data = noise(SHAPE, classes=CLASSES, images=256)
    dense, _, batch = scoring(depth, images=100)
    image = torch.zeros(1, *SHAPE)
    ticket = find_ticket(dense, batch, criterion="grasp", budget=Budget(remove=removed))
    small = ticket.apply(dense)
    macs = count_macs(dense, image) / count_macs(small, image)
    return timed_steps({"dense": dense, "ticket": small}, data, Recipe(compile="off")), macs


def whole_bill(beside: str, rounds: int) -> list[float]:
    """Return the seconds of Algorithm 2 (score, remove, train), divided by those of another way."""
    steps, _ = _steps(56, 12)
    epochs, in_epoch = 200, 351  # 45,000 images of CIFAR-10 in batches of 128
    model, _, batch = scoring(56)

    def search() -> None:
        score(model, find_blocks(model, batch[0][:1]), batch, "grasp")

    with steps as lent:
        sides = {name: steps.step for name, steps in lent.items()}
        taken = interleave(sides | {"search": search}, rounds=rounds, warmup=4)
    values = []
    for dense, ticket, found in zip(*taken.values(), strict=True):
        ours = bill.algorithm2(epochs, in_epoch * ticket, found)
        other = {
            "dense": bill.dense_training(epochs, in_epoch * dense),
            "algorithm1": bill.algorithm1(epochs, in_epoch * dense, in_epoch * ticket, found),
        }[beside]
        values.append(ours.total / other.total)
    return values


def metering(rounds: int, laps: int = 10) -> list[float]:
    """Return CPU seconds per second of a running meter that is read once a second."""
    values = []
    with metered(Where(metering=STATED)) as (meter, _):
        meter.lap()
        for _ in range(rounds):
            start, cpu = time.perf_counter(), time.process_time()
            for _ in range(laps):
                time.sleep(1)
                meter.lap()
            values.append((time.process_time() - cpu) / (time.perf_counter() - start))
    return values


def forecast(rounds: int, epochs: int = 8) -> list[float]:
    """Return forecast seconds of trainings, divided by measured ones: dense, ticket, dense, ..."""
    data = load_data("digits", validation_fraction=0.1)
    recipe, where = Recipe(epochs=epochs, batch_size=64), Where(progress=False)
    values = []
    for seed in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            at = Search(
                networks=Networks.of(data), model="resnet32", dataset=data,
                budget=Budget(remove=5), seed=seed, out=out / "ticket", recipe=recipe, where=where,
                timing_rounds=9, forecast=True,
            )  # fmt: skip
            predicted = find(TicketMethod(criterion="grasp"), at)["forecast"]
            for name, ticket in (("dense", None), ("ticket", out / "ticket")):
                run = train_network(
                    "resnet32", data, recipe, seed=seed, out=out / "runs", ticket=ticket,
                    where=where,
                )  # fmt: skip
                values.append(predicted[name]["train_seconds"] / run["train_seconds"])
    return values


TRAIN = """
import json, os, sys
from pathlib import Path
from layerticket.data.dataset import noise
from layerticket.models.load import build_model
from layerticket.training.device import Where
from layerticket.training.fit import fit
from layerticket.training.recipe import Recipe
data = noise((3, 32, 32), classes=10, images=1280)
model = build_model("resnet32", classes=10, channels=3, seed=0)
found = fit(model, data, Recipe(epochs=3, compile="off"), seed=0, folder=Path(sys.argv[1]),
            where=Where(device="cpu", progress=False))
if os.environ.get("RANK", "0") == "0":
    print(json.dumps(found.images_per_second))
"""


def ddp(rounds: int) -> list[float]:
    """Return images/s of two processes with one thread, divided by one with two threads."""
    values = []
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for turn in range(rounds):
        speeds = {}
        for count in (1, 2) if turn % 2 == 0 else (2, 1):
            with tempfile.TemporaryDirectory() as folder:
                code = Path(folder) / "train.py"
                code.write_text(TRAIN)
                words = [*(launch if count > 1 else []), str(code), str(Path(folder) / "run")]
                speeds[count] = float(_ran(words, threads=2 // count).splitlines()[0])
        values.append(speeds[2] / speeds[1])
    return values


def _ran(words: list[str], *, threads: int, **variables: str) -> str:
    """Run Python with environment variables and return its output."""
    done = subprocess.run(
        [sys.executable, *words], env=_environment(threads) | variables, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


def _environment(threads: int) -> dict[str, str]:
    """Return the environment of a process that can import the benchmarks."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    return os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}


# Studies and commands


def _run_quick(folder: Path) -> float:
    """Run the study `quick` and return how long it took."""
    start = time.perf_counter()
    words = [*CLI, "study", "run", "quick", "--out", str(folder)]
    subprocess.run(words, check=True, capture_output=True)
    return time.perf_counter() - start


@cache
def quick() -> tempfile.TemporaryDirectory:
    """Return a folder with the study `quick`, run once for the rows that read it."""
    kept = tempfile.TemporaryDirectory()
    _run_quick(Path(kept.name) / "quick")
    return kept


def study(rounds: int) -> list[float]:
    """Run a study of short runs, against bare loops of its trainings on the same cores."""
    values, planned = [], Path(quick().name) / "quick"
    for turn in range(rounds):
        seconds = {}
        for side in ("study", "bare") if turn % 2 == 0 else ("bare", "study"):
            with tempfile.TemporaryDirectory() as kept:
                seconds[side] = (
                    _run_quick(Path(kept) / "quick") if side == "study" else bare_loops(planned)
                )
        values.append(seconds["study"] / seconds["bare"])
    return values


def bare_loops(folder: Path) -> float:
    """Return the seconds of bare loops over all trainings of a study, on all cores."""
    names = sorted(path.name for path in (folder / "trainings").iterdir())
    code = "import sys, speed_rows; print(speed_rows.bare_seconds(*sys.argv[1:]))"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder), *names[start :: cores()]],
            env=_environment(1), stdout=subprocess.PIPE, text=True,
        )
        for start in range(cores())
    ]  # fmt: skip
    return sum(float(one.communicate()[0].split()[-1]) for one in started) / cores()


def bare_seconds(folder: str, *names: str) -> float:
    """Return the seconds of bare loops over some trainings of a study, in this process."""
    torch.set_num_threads(1)
    work = JobRunner(StudyFolder(Path(folder)))
    total = 0.0
    for job in work.plan.jobs.values():
        if job.kind != "train":
            continue
        training = work.training(job)
        if training.identity.name in names:
            loop = Bare(training.dataset, training.recipe, training.build(), compiled=False)
            start = time.perf_counter()
            for epoch in range(training.recipe.epochs):
                loop.epoch(epoch)
            total += time.perf_counter() - start
    return total


def made_study(folder: Path, seeds: int) -> Path:
    """Write a study of dense and one ticket over many seeds, as if it were finished."""
    spec = study_of({
        "title": "many", "models": ["resnet20"], "data": "digits", "seeds": seeds,
        "budgets": [{"remove": 2}], "recipe": {"epochs": 4},
        "methods": [{"method": "ticket", "criterion": "snip"}],
    })  # fmt: skip
    plan, place = unfold(spec, {"fingerprint": "f" * 64}), StudyFolder(folder)
    place.write_plan(plan, study_text(spec))
    cost = {"energy_kwh": 1.0, "co2_kg": 0.4}
    for name, job in plan.jobs.items():
        record = {}
        if job.kind == "search":
            record = {"ticket": "t", "search_seconds": 1.0}
            own = Cost(search_seconds=1.0, energy_kwh=0.1, co2_kg=0.04)
            write_json(place.search(name) / "bill.json", Bill(items={name: own}).as_record())
        elif job.kind == "train":
            ended = {"epochs": 4, "train_seconds": 1.0, "weights": 64 * "0", "snapshots": {}}
            write_json(place.training(name) / "result.json", ended | cost)
            record = {"training": name, "search": job.needs.get("search")}
        place.finish(name, record)
    return folder


def status(rounds: int) -> list[float]:
    """Read the status of a study of 1,000 rows, against 100 rows, without caches."""
    from layerticket.study import folder as study_folder

    def look(at: Path) -> None:
        study_folder._read_once.cache_clear()
        study_status(at)

    with tempfile.TemporaryDirectory() as kept:
        many, few = (made_study(Path(kept) / str(rows), rows // 2) for rows in (1000, 100))
        return in_turns(partial(look, many), partial(look, few), rounds)


def command_help(rounds: int) -> list[float]:
    ours = partial(subprocess.run, [*CLI, "--help"], check=True, capture_output=True)
    torch_alone = partial(subprocess.run, [sys.executable, "-c", "import torch"], check=True)
    return in_turns(ours, torch_alone, rounds)


def report_seconds(rounds: int) -> list[float]:
    folder = Path(quick().name)
    words = [*CLI, "report", str(folder / "quick"), "--out", str(folder / "report")]
    ours = partial(subprocess.run, words, check=True, capture_output=True)
    return interleave({"report": ours}, rounds=rounds)["report"]


def page_seconds(rounds: int) -> list[float]:
    """Seconds from opening the page in a browser until its first chart is drawn."""
    from playwright.sync_api import sync_playwright

    folder = Path(quick().name)
    words = [*CLI, "report", str(folder / "quick"), "--out", str(folder / "seen")]
    subprocess.run(words, check=True, capture_output=True)
    with sync_playwright() as playwright:
        path, values = shutil.which("chromium"), []
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for _ in range(rounds + 1):
            page = browser.new_page()
            page.goto((folder / "seen" / "report.html").as_uri())
            page.locator("#comparisons svg").wait_for()
            values.append(page.evaluate("performance.now()") / 1000)
            page.close()
        browser.close()
    return values[1:]  # the first one starts the browser's processes


def report_size(rounds: int) -> list[float]:
    folder = Path(quick().name)
    words = [*CLI, "report", str(folder / "quick"), "--out", str(folder / "page")]
    subprocess.run(words, check=True, capture_output=True)
    return [(folder / "page" / "report.html").stat().st_size / 1e6] * rounds


# Corruptions


def corruption_set(rounds: int, names: Sequence[str], images: int = 200) -> list[float]:
    """Compute corruptions at 5 severities, against `plain_corruptions`, image by image."""
    drawn = torch.rand(images, *SHAPE, generator=torch.Generator().manual_seed(0))
    some = (255 * F.avg_pool2d(drawn, 5, 1, 2)).to(torch.uint8)

    def ours() -> None:
        for name in names:
            for severity in corruptions.SEVERITIES:
                corruptions.corrupt(some, name, severity, seed=0)

    def plain() -> None:
        draws = np.random.default_rng(0)
        for image in some.permute(0, 2, 3, 1).numpy():
            for name in names:
                for severity in corruptions.SEVERITIES:
                    plain_corruptions.corrupted(image, name, severity, draws)

    ours()  # fills its caches
    return in_turns(plain, ours, rounds, warmup=0)


GRADIENT = "one gradient of the same batch"
SHORTCUT = (
    "With batch normalization GraSP needs one gradient and no Hessian; the check of whether this "
    "holds is included."
)
PARTS = (
    "In forward passes of ResNet-152 (ViT-L), in CPU time on one thread, discovery takes 2.6 "
    "(1.6), mostly 1.8 (1.2) to run it once and record calls, sums, MACs and side effects of all "
    "modules, of which 0.6 (0.15) is Python code; 0.4 (0.35) to test one module of each kind, "
    "which is called five times or more; 0.2 (0.01) to run the network without its blocks. The row "
    "itself is wall time with two threads: they run a forward pass of ResNet-152 in 0.46 of its "
    "time on one thread, but not the serial parts of discovery. On one thread the row is 2.33 "
    "(median of 7 rounds)."
)
ROWS = (
    Row(
        name="grasp", what="GraSP block scores, ResNet-56, 250 images", against=GRADIENT,
        measure=partial(criterion, "grasp", 56), most=1.3, note=SHORTCUT,
    ),
    Row(
        name="grasp-resnet32", what="the same, ResNet-32", against=GRADIENT,
        measure=partial(criterion, "grasp", 32), most=1.3, note=SHORTCUT,
    ),
    Row(
        name="grasp-halves", what="the same, ResNet-56, the batch in two halves", against=GRADIENT,
        measure=partial(criterion, "grasp", 56, halves=True), note=SHORTCUT,
    ),
    Row(
        name="grasp-vit", what="GraSP with the exact Hessian product: ViT-tiny, 100 images",
        against=GRADIENT, measure=grasp_vit, most=5, packages=("timm",),
    ),
    Row(
        name="snip", what="SNIP block scores, ResNet-56, 250 images", against=GRADIENT,
        measure=partial(criterion, "snip", 56), most=1.1,
    ),
    Row(
        name="synflow", what="SynFlow block scores, ResNet-56 (one image of ones)",
        against="one gradient of 250 images",
        measure=partial(criterion, "synflow", 56), most=0.1,
    ),
    Row(
        name="discovery-resnet56", what="discovery of blocks, ResNet-56",
        against="one gradient of 250 images", measure=discovery_resnet56, most=0.3,
    ),
    Row(
        name="discovery-resnet152", what="discovery of blocks, ResNet-152, 224 x 224",
        against="one forward pass of one image", measure=partial(discovery, resnet152), most=3,
        packages=("torchvision",), rounds=5, limit=PARTS,
    ),
    Row(
        name="discovery-vit", what="discovery of blocks, ViT-L",
        against="one forward pass of one image", most=3, packages=("timm",), rounds=5,
        limit=PARTS,
        measure=partial(discovery, partial(vit, "vit_large_patch16_224", 224, 16)),
    ),
    Row(
        name="outputs-without-blocks", what="outputs without each block, ResNet-56, per block",
        against="one forward pass", measure=leave_one_out, most=0.6, rounds=5,
    ),
    Row(
        name="depth", what="CPU seconds of finding and scoring, ResNet-20 to ResNet-1202",
        against="R2 of a linear fit to the number of blocks", measure=depth, least=0.98, rounds=3,
        note="Of six networks ResNet-1202 alone decides R2, which would be 0.996 for a quadratic "
        "cost too. Row `depth-per-block` shows whether the cost is linear.",
    ),
    Row(
        name="depth-per-block", what="the same per block, ResNet-1202", against="ResNet-110",
        measure=depth_per_block, most=1.2, rounds=3,
    ),
    Row(
        name="training", least=0.98, measure=training,
        what="images/s of training ResNet-32, metrics, checkpoints, metering included",
        against="the fastest bare loop on the same tensors",
    ),
    Row(
        name="training-script", what="the same", least=2.5, measure=training_script,
        against="a script in float32 with a DataLoader and per-image transforms",
        packages=("torchvision",),
        limit="Row `training` says how close the training is to the fastest bare loop; the rest is "
        "how far that loop is ahead of the script on this machine. The script's two workers and "
        "its training share two cores, so its rounds differ.",
    ),
    Row(
        name="compile", what="steps from which a compiled training of ResNet-32 is ahead",
        against="", measure=compiling, unit="steps", rounds=5,
        note="Each round compiles with an empty cache in a new process. `auto` does not count the "
        "cache on disk: compiled steps give other last bits, and a training must not "
        "depend on what was compiled before ([distributed](../how-to/distributed.md)).",
    ),
    Row(
        name="ddp", what="images/s of two DDP processes with one thread each", measure=ddp,
        against="one process with two threads", least=0.9, rounds=5,
    ),
    Row(
        name="ticket-step", measure=ticket_step, least=0.95, note=NO_WAIT,
        what="speed-up of an eager training step, GraSP ticket of ResNet-56, p = 12",
        against="ratio of MACs", times=partial(macs_ratio, "resnet56", 12),
    ),
    Row(
        name="bill-algorithm1", most=0.4, measure=partial(whole_bill, "algorithm1"), note=NO_WAIT,
        what="score at initialization and train in eager steps, p = 12 of ResNet-56",
        against="Algorithm 1",
    ),
    Row(
        name="bill-dense", what="the same", against="dense training",
        measure=partial(whole_bill, "dense"), most=0.6, note=NO_WAIT,
    ),
    Row(
        name="metering", what="CPU time of an energy meter that is read once a second",
        against="time of one core", measure=metering, most=0.01, packages=("codecarbon",), rounds=3,
    ),
    Row(
        name="forecast", what="forecast seconds of a training, ResNet-32 and a ticket",
        against="the measured seconds", measure=forecast, rounds=3,
        note="Forecasts are made before trainings, so the two do not take turns. Each round has a "
        "value of the dense network and one of the ticket.",
    ),
    Row(
        name="study", what="the study quick, 25 short trainings", most=1.15, measure=study,
        limit="In bare loops (57 s on both cores): the last turn, in which one core has no "
        "training left, takes 0.04; imports before the first job (3.1 s) 0.05; 20 validations and "
        "the test of each training (0.17 s) 0.04; its process, name and files (0.2 s) 0.04; "
        "searches with their processes (0.2 s each) 0.04; the end of the command 0.01. Together "
        "1.22: the figure differs with the state of the machine, by more than its distance from "
        "the target.",
        against="the bare loops of its trainings on the same cores", rounds=3,
    ),
    Row(
        name="status", what="status of a study of 1,000 rows", against="of 100 rows",
        measure=status, most=12,
    ),
    Row(
        name="help", what="layerticket --help", against='python -c "import torch"',
        measure=command_help, most=1.0,
    ),
    Row(
        name="report-seconds", what="layerticket report of quick", against="",
        measure=report_seconds, most=3, unit="s", rounds=5,
    ),
    Row(
        name="page-seconds", what="its page in chromium, complete from disk", against="", most=1,
        measure=page_seconds, unit="s", packages=("playwright",), rounds=5,
    ),
    Row(
        name="report-size", what="its page", against="", measure=report_size, most=1.2, unit="MB",
        rounds=1,
    ),
    Row(
        name="corruptions", least=10, rounds=3,
        measure=partial(corruption_set, names=plain_corruptions.CORRUPTIONS),
        what="15 corruptions x 5 severities of 200 images: images/s",
        against="our own plain version for one image, with NumPy, SciPy and Pillow",
        note="The plain version's glass blur is a loop over pixels in Python, as in the recipe.",
        limit="JPEG files (Pillow) and Poisson numbers (NumPy) are 36 % of our time, and the same "
        "calls on both sides: 1.3 and 1.2 times. The ratio of the other 13 is 12.",
    ),
    Row(
        name="corruptions-without-glass", rounds=3, what="the same without glass blur",
        measure=partial(
            corruption_set, names=[n for n in plain_corruptions.CORRUPTIONS if n != "glass_blur"]
        ),
        against="the same",
    ),
)  # fmt: skip
