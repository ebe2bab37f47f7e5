"""`layerticket report`: a page, tables and figures of a study."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from layerticket.cli.options import Json
from layerticket.cli.output import say
from layerticket.report.page import write_report
from layerticket.study.collect import load_study


def report(
    folder: Path,
    /,
    *,
    out: Path | None = None,
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
    study = load_study(folder)
    written = write_report(study, folder if out is None else out, figures=figures)
    record = {
        "report": str(written[0]),
        "verdict": study["verdict"],
        "files": [str(path) for path in written],
    }
    text = f"{study['verdict']}\n\n{written[0]}\nand {len(written) - 1} files beside it"
    say(record, text, as_json=json)
