"""Faults known when the outside was frozen, none of which came back; shown from outside:
command line, files, `import`, public names, and libraries (fcntl, os, hashlib, torch) that a hook
watches or changes.

Without a test:

- Half of the fault of `report`: comparisons are brought up to date twice. Both give the same, so
  nothing but time shows it.
- Half of the fault of `--device cuda:3`: the runner opens a context on GPU 0. That takes a machine
  with several GPUs; the record, the other half, is tested with GPUs that are pretended.
"""

import builtins
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from importlib.metadata import entry_points
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

NETS = '''
"""Networks that train in a second."""
import os, signal
from pathlib import Path
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
    def forward(self, x):
        return (x + self.norm(self.conv(x))).relu()

class Net(nn.Module):
    def __init__(self, num_classes, in_channels, depth=4):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(4, num_classes)
    def forward(self, x):
        x = self.stem(x).relu()
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))

class Mortal(Net):
    steps = 0
    def forward(self, x):
        self.steps += self.training
        died = Path(os.environ["NETS_DIED"])
        if self.steps == 15 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)

def net(num_classes, in_channels):
    return Net(num_classes, in_channels)

def mortal(num_classes, in_channels):
    return Mortal(num_classes, in_channels)

def broken(num_classes, in_channels):
    raise RuntimeError("this network is on strike")

def tied(num_classes, in_channels):
    """A network, and a criterion two of whose judges rank its blocks in pairs, the other way."""
    import itertools, layerticket
    calls = itertools.count()
    if "tied" not in layerticket.criterion_names():
        @layerticket.criterion("tied", cites="nobody", uses=("inputs",), order=0)
        def scores(model, blocks, batch):
            """Score in pairs."""
            seed, turned = divmod(next(calls), 2)  # two batches for each initialization
            low = [number % 2 if seed else number // 4 for number in range(8)]
            values = [1.0 + (not part if turned else part) for part in low]
            return {block.name: value for block, value in zip(blocks, values, strict=True)}
    return Net(num_classes, in_channels, 8)
'''

STUDY = """
title = "Small"
models = ["nets:{model}"]
data = "{data}"
seeds = {seeds}
budgets = [{{ remove = 1 }}]
{more}
[recipe]
epochs = 1
precision = "fp32"

[[methods]]
method = "ticket"
criterion = "snip"
"""

CONTROL = """
[[methods]]
method = "control"
control = "random"
draws = {draws}
label = "{label}"
"""


class Place:
    """A folder to give commands in, with networks of its own and hooks into libraries."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "nets.py").write_text(NETS)
        self.log = folder / "hook.log"

    def env(self, hook="", **more):
        paths = [str(self.folder)]
        if hook:
            place = self.folder / "hook"
            place.mkdir(exist_ok=True)
            (place / "sitecustomize.py").write_text(textwrap.dedent(hook))
            paths.insert(0, str(place))
        paths += [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
        fixed = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        fixed |= {"HOOK_LOG": str(self.log), "HOOK_FOLDER": str(self.folder)}
        return os.environ | fixed | more

    def start(self, *words, hook="", **more):
        command = [sys.executable, "-m", "layerticket.cli", *map(str, words)]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.env(hook, **more), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def give(self, *words, hook="", code=0, **more):
        with self.start(*words, hook=hook, **more) as process:
            out, err = process.communicate(timeout=200)
        assert code is None or process.returncode == code, (process.returncode, out, err)
        return process.returncode, out, err

    def here(self, *words, code=0):
        """Give a command in this process."""
        (door,) = entry_points(group="console_scripts", name="layerticket")
        out, err = io.StringIO(), io.StringIO()
        with contextlib.chdir(self.folder), pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(self.folder)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                ended = door.load()([str(word) for word in words])
        sys.modules.pop("nets", None)
        assert ended == code, (ended, out.getvalue(), err.getvalue())
        return ended, out.getvalue(), err.getvalue()

    def study(self, out, *, controls=(), code=0, hook="", options=(), **fields):
        text = STUDY.format(**{"model": "net", "data": "digits", "seeds": 1, "more": ""} | fields)
        text += "".join(CONTROL.format(label=label, draws=draws) for label, draws in controls)
        file = self.folder / f"{out}.toml"
        file.write_text(text)
        words = ["study", "run", file, "--out", out, "--workers", 1, "--threads", 1, *options]
        return self.give(*words, hook=hook, code=code) if hook else self.here(*words, code=code)

    def logged(self):
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path.resolve())


def test_looking_never_locks(place, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    locked = []

    def watched(original):
        def lock(file, operation, *rest):
            if not operation & fcntl.LOCK_UN:
                locked.append(file)
            return original(file, operation, *rest)

        return lock

    monkeypatch.setattr(fcntl, "flock", watched(fcntl.flock))
    monkeypatch.setattr(fcntl, "lockf", watched(fcntl.lockf))
    place.study("s", model="broken", code=1)
    assert locked  # locks are seen
    locked.clear()
    place.here("study", "status", "s")
    assert locked == []


@pytest.mark.slow
def test_branches_can_be_taken_out_for_a_budget_of_memory(place):
    vit = "timm:vit_tiny_patch16_224,img_size=8,patch_size=1,depth=3"
    words = ("find", vit, "--criterion", "magnitude", "--json", "--granularity")
    _, out, _ = place.give("train", vit, "--epochs", 1, "--json")
    budget = int(0.9 * json.loads(out)["peak_memory_bytes"])
    place.give(*words, "block", "--max-memory", budget, "--out", "blocks")  # a budget that is met
    _, out, _ = place.give(*words, "branch", "--max-memory", budget, "--out", "branches")
    found = json.loads(out)
    assert found["removed"]
    assert found["measured"]["peak_bytes"] <= budget


def test_every_row_is_counted(place):
    place.study("s", controls=[("one", 1), ("three", 3)])
    standing = json.loads(place.here("study", "status", "s", "--json")[1])
    assert standing["total"] == 1 + 1 + 1 + 3
    assert standing["done"] == standing["total"]


GPUS = """
    import sys
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name != "torch":
                return None
            sys.meta_path.remove(self)
            import importlib.util
            spec = importlib.util.find_spec(name)
            run = spec.loader.exec_module
            def exec_module(module):
                run(module)
                import torch.cuda as cuda
                cuda.is_available, cuda.device_count = (lambda: True), (lambda: 4)
                def name_of(device=None):
                    index = getattr(device, "index", device)
                    return f"pretended GPU {index or 0}"
                cuda.get_device_name = name_of
            spec.loader.exec_module = exec_module
            return spec
    sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("device", ["cuda:9", "cuda:x"])
def test_a_gpu_that_is_not_there_is_refused(place, device):
    code, _, err = place.study("s", hook=GPUS, options=("--device", device), code=None)
    assert code == 2
    assert "Traceback" not in err


def test_the_record_names_the_gpu_asked_for(place):
    place.study("s", hook=GPUS, model="broken", options=("--device", "cuda:3"), code=1)
    assert "pretended GPU 0" not in (place.folder / "s" / "study.json").read_text()


def test_a_training_goes_on_when_metrics_are_behind(place, monkeypatch):
    train = ("train", "nets:mortal", "--epochs", 3, "--precision", "fp32", "--out", "runs")
    died = {"NETS_DIED": str(place.folder / "died")}
    place.give(*train, **died, code=-signal.SIGKILL)
    (metrics,) = (place.folder / "runs").rglob("metrics.jsonl")
    assert len(metrics.read_text().splitlines()) == 1
    metrics.write_text("")
    monkeypatch.setenv("NETS_DIED", died["NETS_DIED"])
    _, out, _ = place.here(*train, "--json")
    assert json.loads(out)["epochs"] == 3


def looks_of_a_status(place, monkeypatch, draws):
    """Looks at files of a study, all and at the file that is looked at most."""
    out, looks = f"s{draws}", []
    place.study(out, model="broken", controls=[("random", draws)], code=1)

    def watched(original):
        def look(path=".", *rest, **more):
            looks.append(str(path))
            return original(path, *rest, **more)

        return look

    with monkeypatch.context() as patch:
        for module, name in ((os, "stat"), (os, "open"), (os, "listdir"), (os, "scandir")):
            patch.setattr(module, name, watched(getattr(module, name)))
        for module in (builtins, io):
            patch.setattr(module, "open", watched(module.open))
        place.here("study", "status", out)
    inside = [look for look in looks if f"{out}{os.sep}" in look]
    assert inside  # looks are seen
    return len(inside), Counter(inside).most_common(1)[0][1]


def test_a_status_looks_at_what_rows_share_once(place, monkeypatch):
    few, most_of_few = looks_of_a_status(place, monkeypatch, 5)
    many, most_of_many = looks_of_a_status(place, monkeypatch, 10)
    assert most_of_many <= most_of_few
    assert many <= 2.2 * few


HASHES = """
    import hashlib, os
    class Counted:
        def __init__(self, inner, name):
            self._inner, self._name = inner, name
        def update(self, data):
            self._count(memoryview(data).nbytes)
            return self._inner.update(data)
        def _count(self, size):
            if size > 100_000:
                with open(os.environ["HOOK_LOG"], "a") as log:
                    log.write(f"{size}\\n")
        def __getattr__(self, name):
            return getattr(self._inner, name)
    def counted(original, name):
        def make(*data, **more):
            made = Counted(original(**more), name)
            for part in data:
                made.update(part)
            return made
        return make
    hashed = hashlib.file_digest
    def file_digest(file, digest, **more):
        with open(os.environ["HOOK_LOG"], "a") as log:
            log.write(f"{os.fstat(file.fileno()).st_size}\\n")
        return hashed(file, digest, **more)
    hashlib.file_digest = file_digest
    for name in ("sha256", "sha1", "md5", "blake2b", "blake2s", "sha512"):
        setattr(hashlib, name, counted(getattr(hashlib, name), name))
"""
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur",
    "zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate",
    "jpeg_compression",
)  # fmt: skip


def write_cifar(folder, images):
    """CIFAR-10 and CIFAR-10-C in small, as their authors publish them."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet
    from PIL import Image

    generator = np.random.default_rng(0)
    for name, count in (("train", 150), ("test", images)):
        rows = []
        for number in range(count):
            file = folder / "image.png"
            pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(file)
            rows.append({"bytes": file.read_bytes(), "path": str(number)})
            file.unlink()
        labels = [number % 10 for number in range(count)]
        path = folder / f"{name}.parquet"
        pyarrow.parquet.write_table(pa.table({"img": rows, "label": labels}), path)
    (folder / "CIFAR-10-C").mkdir()
    np.save(folder / "CIFAR-10-C" / "labels.npy", np.tile(np.array(labels), 5))
    for name in CORRUPTIONS:
        pixels = generator.integers(0, 256, (5 * images, 32, 32, 3), np.uint8)
        np.save(folder / "CIFAR-10-C" / f"{name}.npy", pixels)
    return len(CORRUPTIONS) * pixels.nbytes


@pytest.mark.slow
def test_published_files_are_hashed_once_a_process(place):
    data = place.folder / "data"
    data.mkdir()
    size = write_cifar(data, 40)
    more = 'evaluate = ["cifar10-c"]'
    fields = {"data": "cifar10", "seeds": 2, "more": more, "hook": HASHES}
    place.study("s", **fields, options=("--data-dir", data))
    hashed = sum(map(int, place.logged()))
    assert 0.9 * size < hashed  # the hook sees it
    assert hashed < 2.9 * size  # the runner and its one worker, at most


def test_imports_where_fcntl_and_resource_do_not_exist(place):
    code = """
        import sys
        import torch  # it has its own ways there
        for name in ("fcntl", "resource"):
            sys.modules[name] = None
        import layerticket
        for name in layerticket.__all__:
            getattr(layerticket, name)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=place.env(), capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_opposite_rankings_do_not_agree(place):
    words = ("blocks", "nets:tied", "--data", "digits", "--spread", "tied", "--repeats", 2)
    agreement = json.loads(place.give(*words, "--json")[1])["spread"]["agreement"]
    assert agreement["batches"] == pytest.approx(0.0, abs=1e-9)


STOPS = """
    import fcntl, os, signal
    flock = fcntl.flock
    def first_stops(file, operation, *rest):
        held = os.environ["HOOK_LOG"]
        if operation & fcntl.LOCK_EX:
            with open(held + "." + str(os.getpid()), "a"):
                pass
        done = flock(file, operation, *rest)
        if operation & fcntl.LOCK_EX and not os.path.exists(held):
            with open(held, "w"):
                pass
            os.kill(os.getpid(), signal.SIGSTOP)
        return done
    fcntl.flock = first_stops
"""


def until(ready, seconds):
    end = time.monotonic() + seconds
    while not ready() and time.monotonic() < end:
        time.sleep(0.1)
    return ready()


def test_a_runner_that_waits_for_a_stopped_one_says_so(place):
    (place.folder / "s.toml").write_text(
        STUDY.format(model="broken", data="digits", seeds=1, more="")
    )
    said = place.folder / "said"
    runners = []

    def begin():
        command = [sys.executable, "-m", "layerticket.cli", "study", "run", "s.toml"]
        command += ["--out", "s", "--workers", "1", "--threads", "1"]
        with said.open("w") as err:
            runners.append(
                subprocess.Popen(
                    command, cwd=place.folder, env=place.env(STOPS), stdout=subprocess.DEVNULL,
                    stderr=err,
                )
            )  # fmt: skip
        return runners[-1]

    try:
        begin()
        assert until(place.log.exists, 60)  # the first holds its lock, and stands still
        second = begin()
        tried = place.log.with_name(f"{place.log.name}.{second.pid}")
        until(lambda: tried.exists() or second.poll() is not None, 60)
        assert until(said.read_text, 60)
    finally:
        for runner in runners:
            runner.kill()
            runner.wait()


def test_trains_without_private_parts_of_accelerate(place):
    code = """
        import sys
        from importlib.metadata import entry_points
        try:
            from accelerate.state import AcceleratorState
        except ImportError:
            pass
        else:
            del AcceleratorState._reset_state
        (door,) = entry_points(group="console_scripts", name="layerticket")
        sys.exit(door.load()(sys.argv[1:]))
    """
    words = ["train", "nets:net", "--epochs", "1", "--precision", "fp32", "--out", "runs"]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *words], env=place.env(), cwd=place.folder,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return x + self.layer(x).tanh()


class Spoken(NamedTuple):
    loss: torch.Tensor
    logits: torch.Tensor


class Speaker(nn.Module):
    """A network that takes a dictionary and computes its loss, as those of Hugging Face do."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(Residual() for _ in range(3))
        self.head = nn.Linear(8, 3)

    def forward(self, inputs, labels):
        x = self.embedding(inputs)
        for block in self.blocks:
            x = block(x)
        logits = self.head(x)
        return Spoken(nn.functional.cross_entropy(logits, labels), logits)


def test_grasp_on_a_dictionary_says_that_it_has_no_temperature(caplog):
    import layerticket

    model = Speaker()
    batch = {"inputs": torch.randn(12, 6), "labels": torch.arange(12) % 3}
    blocks = layerticket.find_blocks(model, batch)
    assert len(layerticket.score(model, blocks, batch, "grasp").values) == 3
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("usual temperature of 200" in message for message in said)
