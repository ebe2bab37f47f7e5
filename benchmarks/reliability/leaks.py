"""Compare memory, file handles, threads and tensors before and after 50 runs in one process.

    python benchmarks/reliability/leaks.py --runs 50

A run is `find`, `train` of the ticket and `evaluate`. Five more runs before are the warm-up.
"""

import argparse
import contextlib
import gc
import io
import json
import os
import shutil
import threading
from pathlib import Path

import torch
from common import MODEL, scratch

WARM_UP = 5


def resources() -> dict[str, int]:
    """Return what this process uses now: resident bytes, file handles, threads, tensors."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "resident_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "file_handles": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "tensors": sum(isinstance(one, torch.Tensor) for one in gc.get_objects()),
    }


def repeated_runs(folder: Path, runs: int) -> dict[str, object]:
    """Repeat the run; return the resources after the warm-up and at the end."""
    from layerticket.cli.app import main

    torch.set_num_threads(1)
    first = resources()
    for number in range(WARM_UP + runs):
        if number == WARM_UP:
            first = resources()
        shutil.rmtree(folder / "work", ignore_errors=True)
        ticket, out = str(folder / "work" / "t"), str(folder / "work" / "runs")
        small = ["--precision", "fp32", "--device", "cpu", "--out", out]
        commands = (
            ["find", MODEL, "--remove", "1", "--criterion", "snip", "--out", ticket],
            ["train", MODEL, "--ticket", ticket, "--epochs", "1", *small],
            ["evaluate", out, "--on", "test,noise", "--attack-images", "16", "--device", "cpu"],
        )
        for words in commands:
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                assert main(words) == 0, said.getvalue()
    last = resources()
    return {"runs": runs, "after warm-up": first, "at the end": last}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50)
    with scratch() as folder:
        print(json.dumps(repeated_runs(folder, parser.parse_args().runs)))


if __name__ == "__main__":
    main()
