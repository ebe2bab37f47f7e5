"""`layerticket report`: page, tables and figures of a study, its record or a CSV file."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from layerticket.cli.options import Folder, Json
from layerticket.cli.output import emit, log
from layerticket.errors import LayerticketError
from layerticket.files import read_json
from layerticket.settings import Margin
from layerticket.verdict import words

if TYPE_CHECKING:
    from layerticket.report.page import Written

POLL = 1.0  # seconds between two reads of study.json
REFRESH = 10.0  # seconds after which an open page reloads


def report(
    study: Path,
    /,
    *,
    out: Folder | None = None,
    figures: Annotated[bool, Parameter(negative="--no-figures")] = True,
    watch: Annotated[bool, Parameter(negative=())] = False,
    margin: Margin | None = None,
    json: Json = False,
) -> None:
    """Write report.html, report.md, tables as CSV and figures of a study.

    Parameters
    ----------
    study
        Folder of a study, or its record (a copy of study.json); or a CSV file of results from
        anywhere, with columns method (dense, ...), seed, accuracy, and if known model, macs, ...
    out
        Folder to write to; by default that of the study, or one named like the file.
    figures
        Whether to write figures also as PNG and SVG.
    watch
        Rewrite the page while the study runs, until it is done; an open page reloads.
    margin
        How much accuracy a winning ticket may lose, as a fraction; of CSV files, 0.01 by default.
    """
    from layerticket.report.page import write_report, write_study
    from layerticket.report.tables import Study

    kind = study.suffix.lower()
    is_record = kind == ".json" and not study.is_dir()
    is_csv = kind == ".csv" or (study.is_file() and not is_record)
    if watch and (is_csv or is_record):
        raise LayerticketError("--watch needs the folder of a running study.")
    if is_csv:
        written = _of_numbers(study, out, margin, figures=figures)
    elif margin is not None:
        raise LayerticketError(
            "--margin is for CSV files; a study has the margin of its study file."
        )
    elif is_record:
        found = Study.from_record(read_json(study))
        written = write_study(found, study.parent, out or study.with_suffix(""), figures=figures)
    elif watch:
        written = _watched(study, out, figures=figures)
    else:
        written = write_report(study, out, figures=figures)
    verdict = written.study.verdict
    answer = {
        "report": str(written.page),
        "verdict": verdict,
        "files": [str(path) for path in written.files],
    }
    text = f"{verdict}\n\n{written.page}\nand {len(written.files) - 1} more files in its folder"
    emit(answer, text, as_json=json)


def _of_numbers(path: Path, out: Path | None, margin: float | None, *, figures: bool) -> "Written":
    """Write the report of a CSV file."""
    from layerticket.report.numbers import read_numbers
    from layerticket.report.page import write_study

    study = read_numbers(path, **({} if margin is None else {"margin": margin}))
    if study.columns:
        names = ", ".join(study.columns)
        log(f"unknown columns, shown unchanged: {names}")
    return write_study(study, path.parent, out or path.with_suffix(""), figures=figures)


def _watched(folder: Path, out: Path | None, *, figures: bool) -> "Written":
    """Write the page whenever study.json changes, until the study is done."""
    from layerticket.report.page import write_report, write_study
    from layerticket.report.tables import Study

    seen, path = None, folder / "study.json"
    try:
        while True:
            stamp = path.stat().st_mtime_ns if path.is_file() else None  # before it is read
            study = Study.read(folder)
            left = sum(row.status in ("running", "waiting") for row in study.rows)
            if not left:
                return write_report(folder, out, figures=figures)
            if stamp != seen:
                seen = stamp
                page = write_study(study, folder, out, figures=False, refresh=REFRESH).page
                log(f"{left} of {words.counted(len(study.rows), 'run')} left: {page}")
            time.sleep(POLL)
    except KeyboardInterrupt:
        write_report(folder, out, figures=False)  # a page that does not reload
        raise
