"""`layerticket demo`: a small study that comes with the package, run and reported."""

from pathlib import Path
from typing import Any

from layerticket.cli.options import Device, Json, command_line
from layerticket.cli.output import say
from layerticket.cli.study import watched


def demo(
    *,
    model: str | None = None,
    remove: int | None = None,
    criteria: tuple[str, ...] = (),
    seeds: int | None = None,
    epochs: int | None = None,
    margin: float | None = None,
    data: str | None = None,
    data_dir: Path | None = None,
    out: Path = Path("demo"),
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Show the whole story: find tickets at initialization, train, compare over paired seeds.

    It is `layerticket study run demo` and `layerticket report`; options change the study.

    Parameters
    ----------
    model
        Name of the dense network.
    remove
        Blocks every ticket removes.
    criteria
        Criteria to find tickets by.
    seeds
        Number of paired seeds, from 0 up.
    epochs
        Epochs of every training.
    margin
        How much accuracy a winning ticket may lose, as a fraction.
    data
        Data set by name.
    data_dir
        Folder with the CIFAR files.
    out
        Folder of the study and its report.
    """
    from layerticket.report.page import write_report
    from layerticket.report.tables import table_text, verdict_table
    from layerticket.study.running.engine import run_study
    from layerticket.study.running.executors import Workers
    from layerticket.study.toml import read_study

    given = {
        "models.0": model,
        "data": data,
        "budgets.0.remove": remove,
        "methods.0.criterion": list(criteria) or None,
        "seeds": seeds,
        "recipe.epochs": epochs,
        "margin": margin,
    }
    changes = [f"{key}={value!r}" for key, value in given.items() if value is not None]
    study = read_study("demo", changes)
    with watched() as show:
        record = run_study(
            study,
            out,
            workers=Workers(device=device),
            data_dir=data_dir,
            command=command_line(),
            tell=show,
        )
    written = write_report(out, figures=False)
    comparisons = record["comparisons"]
    summary: dict[str, Any] = {
        "study": str(out),
        "report": str(written.page),
        "verdict": record["verdict"],
        "comparisons": comparisons,
    }
    lines = [f"{record['title']} ({record['data']})", "", table_text(verdict_table(written.study))]
    lines += [record["verdict"], f"Report: {written.page}"]
    say(summary, "\n".join(lines), as_json=json)
