"""`layerticket evaluate`: figures of a trained network."""

from pathlib import Path

from layerticket.cli.options import DeviceChoice, Json
from layerticket.cli.output import say
from layerticket.data import load_data
from layerticket.files import read_json
from layerticket.study import evaluate_run, run_folder
from layerticket.study.record import RUN

__all__ = ["evaluate"]


def evaluate(
    run: Path,
    /,
    *,
    on: str = "test",
    data_dir: Path | None = None,
    where: DeviceChoice = DeviceChoice(),  # noqa: B008 - frozen
    json: Json = False,
) -> None:
    """Evaluate the trained network of a run.

    Parameters
    ----------
    run
        Folder `layerticket train` printed, or a folder with a single run in it.
    on
        What to evaluate on, separated by commas: test.
    data_dir
        Folder with the CIFAR files, for a run on them.
    """
    folder = run_folder(run)
    config = read_json(folder / RUN)["config"]
    dataset = load_data(
        config["data"], data_dir=data_dir, validation_fraction=config["validation_fraction"]
    )
    names = tuple(name.strip() for name in on.split(",") if name.strip())
    record = evaluate_run(folder, dataset, names, device=where.device)
    lines = [
        f"{name}: accuracy {100 * result['accuracy']:.2f} % on {result['images']:,} images "
        f"({result['precision']})"
        for name, result in record["results"].items()
    ]
    say(record, "\n".join(lines), as_json=json)
