"""Run eight runners on one study folder: each job must run once, with the bits of one runner.

python benchmarks/reliability/runners.py --runners 8
"""

import argparse
import json
from pathlib import Path

from common import bits, ended, run, scratch, start, study_words


def together(folder: Path, runners: int) -> dict[str, object]:
    """Run a study with one runner, and again with several at the same time."""
    alone, shared = folder / "alone", folder / "shared"
    assert run(study_words(alone, "inline")) == 0
    words = study_words(shared, "inline")
    codes = [ended(pid) for pid in [start(words) for _ in range(runners)]]
    logs = [path.read_text() for path in shared.glob("jobs/*/log.txt")]
    return {
        "runners": runners,
        "ended with 0": codes.count(0),
        "jobs": len(logs),
        "jobs done once": sum(log.count("] done") == 1 for log in logs),
        "bit-identical": bits(shared) == bits(alone),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runners", type=int, default=8)
    with scratch() as folder:
        print(json.dumps(together(folder, parser.parse_args().runners)))


if __name__ == "__main__":
    main()
