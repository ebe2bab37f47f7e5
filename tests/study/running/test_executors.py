"""The executors of this machine: one process per job; its exit code says how the job ended."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from layerticket.errors import LayerticketError
from layerticket.files import exclusive
from layerticket.study.running import executors as module
from layerticket.study.running.executors import (
    Ended,
    InlineExecutor,
    LocalExecutor,
    Workers,
    cores,
    executor_of,
)
from toy_jobs import GO, MET, gone, job, until


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def executor(tmp_path):
    made = LocalExecutor(job, tmp_path, [None, None], 1)
    yield made
    made.close()


def done(executor, *names):
    """Do jobs; return how they ended, in order."""
    ended = {}
    for name in names:
        while not executor.free:
            ended |= {end.job: end for end in executor.wait(60)}
        executor.submit(name)
    while len(ended) < len(names):
        ended |= {end.job: end for end in executor.wait(60)}
    return [ended[name] for name in names]


def log(root, name):
    return (root / "jobs" / name / "log.txt").read_text()


def test_the_exit_code_of_a_process_is_the_fate_of_its_job(tmp_path, executor, capfd):
    names = ["prints", "raises", "leaves", "ends-0", "ends-7", "falls", "dies", "busy", "prints-2"]
    ended = done(executor, *names)
    fates = ["done", "failed", "failed", "done", "died", "died", "died", "busy", "done"]
    assert [end.fate for end in ended] == fates
    assert [end.error for end in ended if end.fate == "died"] == [
        "its process ended with exit code 7",
        "its process ended with SIGSEGV",
        "its process ended with SIGKILL",
    ]
    assert log(tmp_path, "prints") == "to stdout\nto stderr\nfrom below Python\n"
    assert "ArithmeticError: does not add up" in log(tmp_path, "raises")
    assert "SystemExit: 0" in log(tmp_path, "leaves")
    assert log(tmp_path, "ends-7") == "last words\n"
    assert log(tmp_path, "busy") == ""
    assert capfd.readouterr() == ("", "")
    pids = {(tmp_path / f"{name}.begun").read_text().split()[0] for name in names}
    assert len(pids) == len(names)  # a process for each
    assert str(os.getpid()) not in pids


def test_a_process_is_started_afresh_where_there_is_no_fork_server(tmp_path, monkeypatch):
    monkeypatch.setattr(module.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    executor = LocalExecutor(job, tmp_path, [None], 1)
    assert [end.fate for end in done(executor, "prints", "falls")] == ["done", "died"]
    assert "from below Python" in log(tmp_path, "prints")


def test_a_fork_server_that_lacks_a_module_is_reported(tmp_path, executor, monkeypatch):
    monkeypatch.setattr(module, "PRELOADED", (*module.PRELOADED, "nowhere.at_all"))
    assert [end.fate for end in done(executor, "prints")] == ["done"]
    assert log(tmp_path, "prints").startswith("the fork server lacks nowhere.at_all")


def test_a_fork_server_started_with_other_threads_changes_nothing(tmp_path):
    for threads in (1, 2, 1):
        executor = LocalExecutor(job, tmp_path, [None], threads)
        done(executor, f"looks-{threads}")
        seen = (tmp_path / f"looks-{threads}.seen").read_text()
        assert seen == f"{threads} {threads} None {threads} True True"


INSTALLED_COMMAND = """
from pathlib import Path
from layerticket.cli.app import main
from layerticket.study.running.executors import LocalExecutor
from toy_jobs import job
if __name__ == "__main__":
    executor = LocalExecutor(job, Path(), [None], 1)
    for name in ("prints-1", "prints-2"):
        executor.submit(name)
        assert [end.fate for end in executor.wait(60)] == ["done"]
"""
WATCHES_IMPORTS = """
import sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "layerticket.cli.app":
            open("times", "a").write("imported\\n")
sys.meta_path.insert(0, Watch())
"""


def test_jobs_of_the_installed_command_do_not_import_it_again(tmp_path):
    (tmp_path / "command.py").write_text(INSTALLED_COMMAND)
    (tmp_path / "sitecustomize.py").write_text(WATCHES_IMPORTS)
    path = os.pathsep.join(map(str, [tmp_path, *filter(None, sys.path)]))
    environment = os.environ | {"PYTHONPATH": path}
    subprocess.run([sys.executable, "command.py"], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "times").read_text() == "imported\n" * 2  # the command, the fork server


def test_what_is_preloaded_leaves_the_gpus_to_the_jobs():
    """A process that asked for the GPUs cannot be forked: its children could not use them."""
    code = """
import gc, os, sys, torch
import layerticket.study.running.preload
assert set(sys.argv[1:]) <= sys.modules.keys() and not gc.isenabled()
child = os.fork()
if not child:
    os._exit(torch.cuda._is_in_bad_fork())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code, *module.PRELOADED], capture_output=True)
    assert done.returncode == 0, done.stderr


def test_as_many_jobs_at_a_time_as_there_are_places(tmp_path, executor):
    (tmp_path / MET).write_text("2")
    executor.submit("meets-1")
    assert executor.free == 1
    executor.submit("meets-2")
    assert executor.free == 0
    ended = []
    while len(ended) < 2:
        ended += executor.wait(60)
    assert executor.free == 2
    assert {end.fate for end in ended} == {"done"}
    assert executor.wait(0.01) == []


def test_what_runs_is_killed_when_an_executor_is_closed(tmp_path, executor):
    executor.submit("waits")
    until((tmp_path / "waits.begun").exists)
    executor.close()
    assert gone((tmp_path / "waits.begun").read_text().split()[0])
    with exclusive(tmp_path / "jobs" / "waits"):
        assert not (tmp_path / "waits.done").exists()


def runner(root, method, *jobs):
    paths = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, "-m", "toy_jobs", str(root), method, *jobs],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_runner_that_is_killed_leaves_no_orphans(tmp_path, method):
    with runner(tmp_path, method, "waits-1", "waits-2") as process:
        begun = [tmp_path / f"waits-{number}.begun" for number in (1, 2)]
        until(lambda: all(path.exists() for path in begun))
        processes = {pid for path in begun for pid in path.read_text().split()}
        process.kill()
    until(lambda: all(map(gone, processes)))
    (tmp_path / GO).touch()
    ended = done(LocalExecutor(job, tmp_path, [None], 1), "waits-1", "waits-2")  # nobody is at them
    assert [end.fate for end in ended] == ["done", "done"]


def test_a_stopped_runner_keeps_its_jobs(tmp_path):
    with runner(tmp_path, "forkserver", "waits") as process:
        until((tmp_path / "waits.begun").exists)
        process.send_signal(signal.SIGSTOP)
        executor = LocalExecutor(job, tmp_path, [None], 1)
        assert [end.fate for end in done(executor, "waits")] == ["busy"]
        (tmp_path / GO).touch()
        until((tmp_path / "waits.done").exists)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == "waits done\n"
        process.kill()


def test_a_job_sees_its_threads_and_its_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    executor = LocalExecutor(job, tmp_path, ["3"], 2)
    assert [end.fate for end in done(executor, "looks")] == ["done"]
    assert (tmp_path / "looks.seen").read_text() == "2 2 3 2 True True"
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_place_keeps_its_gpu(tmp_path, monkeypatch):
    executor = LocalExecutor(job, tmp_path, ["0", "1"], 1)
    (tmp_path / MET).write_text("2")
    done(executor, "meets-1", "meets-2", "looks-3", "looks-4", "looks-5", "looks-6")
    seen = [(tmp_path / f"looks-{number}.seen").read_text() for number in range(3, 7)]
    assert {text.split()[2] for text in seen} <= {"0", "1"}
    assert executor.free == 2


def test_inline_is_this_process_at_other_threads(tmp_path, capfd):
    executor = InlineExecutor(job, tmp_path, 2)
    assert torch.get_num_threads() == 2
    executor.submit("prints")
    assert executor.free == 0
    assert executor.wait(60) == [Ended(job="prints", fate="done")]
    fates = [end.fate for end in done(executor, "raises", "leaves", "busy")]
    assert fates == ["failed", "failed", "busy"]
    executor.close()
    assert torch.get_num_threads() == 1
    assert "to stdout" in capfd.readouterr().out
    assert "ArithmeticError: does not add up" in log(tmp_path, "raises")
    assert (tmp_path / "prints.begun").read_text().split()[0] == str(os.getpid())


def gpus(monkeypatch, count, visible=None):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


@pytest.mark.parametrize(
    ("visible", "device", "expected"),
    [
        (None, "auto", ["0", "1", "2"]),
        (None, "cuda:1", ["1"]),
        ("4,GPU-abc,6", "cuda", ["4", "GPU-abc", "6"]),
        ("4,GPU-abc,6", "cuda:2", ["6"]),
        (None, "cpu", []),
    ],
)
def test_each_worker_has_a_gpu_of_its_own(monkeypatch, visible, device, expected):
    gpus(monkeypatch, 3, visible)
    assert Workers(device=device).gpus() == expected
    assert Workers(device=device).places() == (expected or [None] * cores())


def test_jobs_may_share_a_gpu(monkeypatch):
    gpus(monkeypatch, 2)
    assert Workers(jobs_per_gpu=2).places() == ["0", "1", "0", "1"]
    assert Workers(jobs_per_gpu=2, workers=3).places() == ["0", "1", "0"]
    with pytest.raises(LayerticketError, match="Use --jobs-per-gpu 3"):
        Workers(workers=5).places()


@pytest.mark.parametrize("count", [0, 4])
@pytest.mark.parametrize("executor", ["local", "inline", "ray"])
def test_a_gpu_that_is_not_here_is_refused(monkeypatch, tmp_path, count, executor):
    gpus(monkeypatch, count)
    for wish in ("cuda:x", "gpu", "cuda:-1", "cuda:"):
        with pytest.raises(LayerticketError, match=r"Use auto, cpu, cuda or cuda:N"):
            Workers(device=wish, executor=executor)
    if executor == "ray":
        with pytest.raises(LayerticketError, match="a GPU of the cluster"):
            Workers(device="cuda:1", executor=executor)
        return
    workers = Workers(device="cuda:9", executor=executor)
    with (
        pytest.raises(LayerticketError, match=f"GPUs found: {count}"),
        executor_of(workers, job, tmp_path, 1),
    ):
        pass


@pytest.mark.parametrize(
    ("wish", "executor", "seen"),
    [
        ("cuda:1", "local", "cuda"),
        ("cuda:1", "inline", "cuda:1"),
        ("auto", "local", "auto"),
        ("cpu", "slurm", "cpu"),
    ],
)
def test_a_process_of_its_own_calls_its_gpu_the_first(wish, executor, seen):
    assert Workers(executor=executor, device=wish).device_seen == seen


@pytest.mark.parametrize("executor", ["inline", "local", "ray", "slurm"])
@pytest.mark.parametrize("workers", [None, 1])
def test_on_a_cpu_a_job_has_one_thread_whoever_does_it(monkeypatch, executor, workers):
    monkeypatch.setattr(module, "cores", lambda: 8)
    assert Workers(executor=executor, workers=workers, device="cpu").default_threads == 1


def test_beside_gpus_workers_share_the_cores(monkeypatch):
    gpus(monkeypatch, 2)
    monkeypatch.setattr(module, "cores", lambda: 8)
    inline = Workers(executor="inline")
    assert (Workers().count, Workers().default_threads, inline.default_threads) == (2, 4, 8)
    assert Workers(executor="ray", ray_address="auto").count is None
    assert Workers(workers=3, device="cpu").count == 3


def test_wrong_wishes_are_refused():
    with pytest.raises(LayerticketError, match="Did you mean 'local'"):
        Workers(executor="locl")
    with pytest.raises(LayerticketError, match="workers is 0"):
        Workers(workers=0)
    with pytest.raises(LayerticketError, match="retries is -1"):
        Workers(retries=-1)
    with pytest.raises(LayerticketError, match="partition=gpu"):
        Workers(executor="slurm", slurm=("gpu",))
    for executor in ("inline", "local", "slurm"):
        with pytest.raises(LayerticketError, match=r"ray_address .* executor ray"):
            Workers(executor=executor, ray_address="auto")
    for executor in ("inline", "local", "ray"):
        with pytest.raises(LayerticketError, match=r"slurm .* executor slurm"):
            Workers(executor=executor, slurm=("partition=gpu",))


def test_settings_of_workers_load_no_torch():
    code = "import sys, layerticket.study.running.executors as w; w.Workers(device='cuda:1')"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
