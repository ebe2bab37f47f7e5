"""The paper's Table 5 over finished studies: ``python -m layerticket.cli.table5 --runs DIR``.

Not a verb of `layerticket`: one table of one paper. Exit codes and output are those of the verbs.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclopts import App, Parameter

from layerticket.cli import app as cli
from layerticket.cli.evaluate import AttackChoice, EvaluationFiles
from layerticket.cli.options import DeviceChoice, Json
from layerticket.cli.output import news, say
from layerticket.data.sources import load_data
from layerticket.files import write_atomically
from layerticket.report.robustness import table5_table
from layerticket.report.tables import markdown, table_text
from layerticket.study.record import write_record
from layerticket.study.tables.table5 import data_of, table5

__all__ = ["main", "run"]

PROGRAM = "python -m layerticket.cli.table5"
app = App(
    name=PROGRAM,
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
    result_action="return_value",
    version_flags=[],
)


@app.default
def run(
    *,
    runs: tuple[Path, ...],
    on: str = "cifar10-c,cifar10.2",
    out: Path | None = None,
    files: EvaluationFiles = EvaluationFiles(),  # noqa: B008
    how: AttackChoice = AttackChoice(),  # noqa: B008
    where: DeviceChoice = DeviceChoice(),  # noqa: B008
    json: Json = False,
) -> None:
    """Evaluate all runs of studies on shifted images; tickets beside dense, and the paper's.

    Parameters
    ----------
    runs
        Folders `layerticket demo` wrote, one or more.
    on
        What to evaluate on, separated by commas, as in `layerticket evaluate`.
    out
        Folder for table5.json and table5.md; by default the first of the studies.
    """
    data, fraction = data_of(runs)
    dataset = load_data(data, data_dir=files.data_dir, validation_fraction=fraction)
    record = table5(
        runs,
        dataset,
        [name.strip() for name in on.split(",") if name.strip()],
        files.conditions(how.attack()),
        device=where.device,
        command=f"{PROGRAM} {shlex.join(sys.argv[1:])}",
        tell=news,
    )
    folder = runs[0] if out is None else out
    table = table5_table(record)
    limited = f"Only the first {files.images:,} images of a set.\n" if files.images else ""
    write_record(folder / "table5.json", record)
    write_atomically(folder / "table5.md", _page(markdown(table), limited, record))
    say(record, f"{table_text(table)}\n{limited}Saved in {folder}", as_json=json)


def _page(table: str, limited: str, record: dict[str, Any]) -> str:
    """Put the table, what it means and how it was made on one page."""
    meaning = (
        "Mean ± standard deviation over seeds; differences are ticket minus dense within a seed,\n"
        "with 95 % t-intervals. At equal clean accuracy: less what the change of the clean\n"
        "accuracy explains on the logit scale (slope 1). Paper: arXiv:2301.10835, Table 5.\n"
    )
    titles = {row["evaluation"]: row["title"] for row in record["rows"]}
    sets = "".join(f"- {name}: {title}\n" for name, title in titles.items())
    return f"{table}\n{meaning}{limited}\n{sets}\nMade by: `{record['command']}`\n"


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
