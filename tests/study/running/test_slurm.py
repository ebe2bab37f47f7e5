"""Jobs through submitit: as processes of this machine, and with commands in place of SLURM's."""

import os
import signal
import sys

import pytest

from layerticket.errors import LayerticketError
from layerticket.study.running import slurm
from layerticket.study.running.executors import Workers
from layerticket.study.running.slurm import SlurmExecutor
from toy_jobs import GO, gone, job, until

pytest.importorskip("submitit")

# What submitit calls, doing with processes what SLURM does with nodes.
COMMANDS = {
    "sbatch": """
        echo call >> calls
        id=$(wc -l < calls); cp "$1" $id.sh
        SLURM_JOB_ID=$id setsid bash $id.sh > /dev/null 2>&1 &
        echo $! > $id.pid; echo "Submitted batch job $id"
    """,
    "srun": """
        while [[ $1 == --* ]]; do case $1 in --unbuffered) shift;; *) shift 2;; esac; done
        exec "$@"
    """,
    "sacct": """
        echo "JobID|State"
        for file in *.pid; do
            state=COMPLETED; kill -0 -- -$(cat $file) 2>/dev/null && state=RUNNING
            [ -e ${file%.pid}.cancelled ] && state=CANCELLED
            echo "${file%.pid}|$state"
        done
    """,
    "scancel": """touch $1.cancelled; kill -KILL -- -$(cat $1.pid)""",
    "scontrol": """SLURM_JOB_ID=$2 setsid bash $2.sh > /dev/null 2>&1 & echo $! > $2.pid""",
}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A SLURM of this machine; returns the folder of its files."""
    place = tmp_path / "cluster"
    place.mkdir()
    for name, script in COMMANDS.items():
        path = place / name
        path.write_text(f"#!/bin/bash\ncd {place}\n{script}")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    return place


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch):
    monkeypatch.setattr(slurm, "POLL", 0.05)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))


def make(root, **wishes):
    return SlurmExecutor(job, root, Workers(executor="slurm", device="cpu", **wishes), 1)


def done(executor, *names):
    for name in names:
        executor.submit(name)
    ended = {}
    while len(ended) < len(names):
        ended |= {end.job: end for end in executor.wait(1.0)}
    return [ended[name] for name in names]


def test_without_submitit_or_slurm_the_way_to_it_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LayerticketError, match="login node"):
        make(tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(LayerticketError, match=r'pip install "layerticket\[slurm\]"'):
        make(tmp_path)


@pytest.mark.slow
def test_jobs_end_as_anywhere_else(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "CLUSTER", "local")
    executor = make(tmp_path)
    ended = done(executor, "prints", "raises", "ends-7", "falls", "busy")
    assert [end.fate for end in ended] == ["done", "failed", "died", "died", "busy"]
    assert ended[3].error == "its process ended with SIGSEGV"
    log = (tmp_path / "jobs" / "prints" / "log.txt").read_text()
    assert log == "to stdout\nto stderr\nfrom below Python\n"
    assert executor.free == slurm.QUEUED


@pytest.mark.slow
def test_options_reach_sbatch(tmp_path, cluster):
    executor = make(tmp_path, slurm=("partition=short", "time=30", "cpus-per-task=3"), workers=3)
    assert executor.free == 3
    assert [end.fate for end in done(executor, "prints")] == ["done"]
    script = (cluster / "1.sh").read_text()
    for line in ("partition=short", "time=30", "job-name=prints", "cpus-per-task=3"):
        assert f"#SBATCH --{line}\n" in script
    assert "gpus" not in script
    with pytest.raises(LayerticketError, match="number of minutes"):
        make(tmp_path, slurm=("time=1:00",))


@pytest.mark.slow
def test_a_job_that_outlives_its_runner_is_found_again(tmp_path, cluster):
    make(tmp_path).submit("waits")  # the runner is gone now
    until((tmp_path / "waits.begun").exists)
    again = make(tmp_path)
    again.submit("waits")
    (tmp_path / GO).touch()
    ended = []
    while not ended:
        ended = again.wait(1.0)
    assert [end.fate for end in ended] == ["done"]
    assert len((cluster / "calls").read_text().split()) == 1  # nothing was queued twice


@pytest.mark.slow
def test_what_is_queued_is_taken_back_when_an_executor_is_closed(tmp_path, cluster):
    executor = make(tmp_path)
    executor.submit("waits")
    until((tmp_path / "waits.begun").exists)
    executor.close()
    until(lambda: gone((tmp_path / "waits.begun").read_text().split()[0]))
    assert not (tmp_path / "waits.done").exists()


@pytest.mark.slow
def test_a_node_that_falls_over_is_a_death(tmp_path, cluster):
    executor = make(tmp_path)
    executor.submit("waits")
    until((tmp_path / "waits.begun").exists)
    group = int((cluster / "1.pid").read_text())
    os.killpg(group, signal.SIGKILL)
    ended = []
    while not ended:
        ended = executor.wait(1.0)
    assert [end.fate for end in ended] == ["died"]
    assert "SLURM job 1 is COMPLETED" in ended[0].error
    assert [end.fate for end in done(executor, "prints")] == ["done"]


@pytest.mark.slow
def test_a_job_at_its_time_limit_goes_on_later(tmp_path, cluster):
    executor = make(tmp_path)
    executor.submit("waits")
    until((tmp_path / "waits.begun").exists)
    first = (tmp_path / "waits.begun").read_text().split()[0]
    os.killpg(int((cluster / "1.pid").read_text()), signal.SIGUSR2)  # SLURM tells every process
    until(lambda: gone(first))
    until(lambda: (tmp_path / "waits.begun").read_text().split()[0] != first)  # queued again
    (tmp_path / GO).touch()
    ended = []
    while not ended:
        ended = executor.wait(1.0)
    assert [end.fate for end in ended] == ["done"]
    assert len((cluster / "calls").read_text().split()) == 1
