"""Table of what can go in the architectures of other libraries: ``make architectures``.

Not a verb of `layerticket`: a page of its documentation, made by
``python -m layerticket.cli.architectures --out docs/architectures.md``.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from cyclopts import App, Parameter

from layerticket.cli import app as cli
from layerticket.cli.options import Json
from layerticket.cli.output import news, say
from layerticket.files import write_atomically
from layerticket.report.architectures import architectures_page
from layerticket.study.architectures.specs import read_specs
from layerticket.study.architectures.survey import survey
from layerticket.study.record import write_record

__all__ = ["main", "run"]

PROGRAM = "python -m layerticket.cli.architectures"
app = App(
    name=PROGRAM,
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
    result_action="return_value",
    version_flags=[],
)


@app.default
def run(
    *,
    out: Path = Path("docs/architectures.md"),
    names: Path = Path("benchmarks/architectures.toml"),
    journal: Path | None = None,
    seconds: float = 600,
    memory: int = 6 * 2**30,
    json: Json = False,
) -> None:
    """Examine every architecture of a list, each in a process of its own; the command resumes.

    Parameters
    ----------
    out
        Page to write; the same as JSON goes beside it.
    names
        List of architectures.
    journal
        File of finished rows; by default out with the ending .jsonl.
    seconds
        Time each one may take.
    memory
        Bytes each one may take.
    """
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")  # of the processes to be started
    specs = read_specs(names)
    versions = {name: version(name) for name in ("torch", "timm", "torchvision", "transformers")}
    rows = survey(
        specs,
        journal or out.with_suffix(".jsonl"),
        seconds=seconds,
        memory=memory,
        versions=versions,
        tell=news,
    )
    command = shlex.join([*PROGRAM.split(), *sys.argv[1:]])
    record = {"command": command, "versions": versions, "rows": rows}
    write_record(out.with_suffix(".json"), record)
    write_atomically(out, architectures_page(record))
    say(record, f"{len(rows)} architectures: {out}", as_json=json)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the table.

    Args:
        argv: Words after the program's name; those of the process by default.

    Returns:
        The exit code, as of `layerticket`.
    """
    return cli.main(argv, program=app)


if __name__ == "__main__":
    sys.exit(main())
