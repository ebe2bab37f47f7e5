"""`layerticket demo`: run a small shipped study and write its report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerticket.cli.options import Device, Folder, Json, command_line
from layerticket.cli.output import emit
from layerticket.cli.study import watched
from layerticket.errors import LayerticketError
from layerticket.settings import Count, Few, Many, Margin

if TYPE_CHECKING:
    from layerticket.study.spec import StudyFile


def demo(
    *,
    model: str | None = None,
    remove: Count | None = None,
    criteria: tuple[str, ...] = (),
    seeds: Few | None = None,
    epochs: Many | None = None,
    margin: Margin | None = None,
    data: str | None = None,
    data_dir: Path | None = None,
    image_size: str | None = None,
    value_range: str | None = None,
    out: Folder = Path("demo"),
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Run a complete example: find tickets at initialization, train, compare over paired seeds.

    The same as `layerticket study run demo` and `layerticket report`; options change the study.

    Parameters
    ----------
    model
        Name of the dense network.
    remove
        Number of blocks that every ticket removes.
    criteria
        Criteria to find tickets with.
    seeds
        Number of paired seeds, from 0 up.
    epochs
        Epochs of every training.
    margin
        How much accuracy a winning ticket may lose, as a fraction.
    data
        Images by name: digits, or your own, as imagefolder:DIR.
    data_dir
        Folder with the CIFAR files.
    image_size
        Height and width that all images are resized to: 64 or 64,48.
    value_range
        Pixel values of black and white, for images of 16 bits: 0,4095.
    out
        Folder of the study and its report.
    """
    from layerticket.report.page import write_report
    from layerticket.report.tables import table_text, verdict_table
    from layerticket.study.running.engine import run_study
    from layerticket.study.running.executors import Workers
    from layerticket.study.toml import read_study

    given = {
        "title": data and "Demo: blocks removed at initialization",
        "models.0": model,
        "data": data,
        "image_size": image_size,
        "value_range": value_range,
        "budgets.0.remove": remove,
        "methods.0.criterion": list(criteria) or None,
        "seeds": seeds,
        "recipe.epochs": epochs,
        "margin": margin,
    }
    changes = [f"{key}={value!r}" for key, value in given.items() if value is not None]
    study = read_study("demo", changes)
    if remove is not None:
        _check_remove(study, remove, data_dir)
    with watched() as show:
        record = run_study(
            study,
            out,
            workers=Workers(device=device),
            data_dir=data_dir,
            command=command_line(),
            report=show,
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
    emit(summary, "\n".join(lines), as_json=json)


def _check_remove(study: "StudyFile", remove: int, data_dir: Path | None) -> None:
    """Raise, before any training, if more blocks are to be removed than exist."""
    from layerticket.study.job import count_blocks, dataset_of

    dataset = dataset_of(study, data_dir)
    for model in study.models:
        if remove > (most := count_blocks(study, dataset, str(model))):
            raise LayerticketError(
                f"--remove is {remove}, but {model} has only {most} removable blocks."
            )
