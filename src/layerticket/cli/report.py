"""`layerticket report`: a page, tables and figures of a study."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from layerticket.cli.options import Folder, Json
from layerticket.cli.output import say


def report(
    folder: Path,
    /,
    *,
    out: Folder | None = None,
    figures: Annotated[bool, Parameter(negative="--no-figures")] = True,
    json: Json = False,
) -> None:
    """Write report.html, report.md, tables as CSV and figures of a study.

    Parameters
    ----------
    folder
        Folder of a study, with its study.json.
    out
        Folder to write into; by default that of the study.
    figures
        Whether figures are also drawn as PNG and SVG.
    """
    from layerticket.report.page import write_report

    written = write_report(folder, out, figures=figures)
    verdict = written.study.verdict
    record = {
        "report": str(written.page),
        "verdict": verdict,
        "files": [str(path) for path in written.files],
    }
    text = f"{verdict}\n\n{written.page}\nand {len(written.files) - 1} files beside it"
    say(record, text, as_json=json)
