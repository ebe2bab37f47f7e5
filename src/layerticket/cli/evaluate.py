"""`layerticket evaluate`: accuracy and robustness of a trained network."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from layerticket.cli.options import Device, Json
from layerticket.cli.output import emit, log
from layerticket.data.sources import Reading
from layerticket.errors import LayerticketError
from layerticket.evaluation.robustness import EVALUATIONS, Conditions
from layerticket.settings import range_of


def evaluate(
    run: Path,
    /,
    *,
    on: Annotated[str, Parameter(help=f"Separated by commas: {', '.join(EVALUATIONS)}.")] = "test",
    data_dir: Path | None = None,
    conditions: Conditions = Conditions(),
    reading: Reading = Reading(),
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Evaluate the trained network of a run; results are cached by their settings.

    Parameters
    ----------
    run
        Folder that `layerticket train` printed, or a folder with a single run in it.
    data_dir
        Folder with the CIFAR files, for a run on them; also searched for files of shifted images.
    """
    from layerticket.data.sources import load_data
    from layerticket.study.evaluate import evaluate_run
    from layerticket.study.record import read_config, run_folder

    places = (*conditions.shift_dir, *(() if data_dir is None else (data_dir,)))
    conditions = replace(conditions, shift_dir=tuple(place.expanduser() for place in places))
    folder = run_folder(run)
    config = read_config(folder)
    if config["data"] is None:
        raise LayerticketError(
            f"{folder} names no data, since your own function trained it, so it cannot be "
            "evaluated here. Evaluate its network in Python: layerticket.evaluation."
        )
    dataset = load_data(
        config["data"],
        data_dir=data_dir,
        validation_fraction=config["validation_fraction"],
        image_size=config.get("image_size"),
        value_range=None if (known := config.get("value_range")) is None else range_of(known),
        reading=reading,
    )
    names = [name.strip() for name in on.split(",") if name.strip()]
    record = evaluate_run(folder, dataset, names, conditions=conditions, device=device, log=log)
    lines = [_line(name, result) for name, result in record["results"].items()]
    emit(record, "\n".join(lines), as_json=json)


def _line(name: str, result: Mapping[str, Any]) -> str:
    """Return the result of one evaluation as text."""
    text = (
        f"{name}: accuracy {100 * result['accuracy']:.2f} % on {result['images']:,} images "
        f"({result['precision']}; {result['settings']['title']}"
    )
    text += f", at {result['epsilon_255']:g}/255)" if "budgets" in result else ")"
    if result.get("relative_accuracy") is not None:
        text += f", {result['relative_accuracy']:.1%} of the clean {result['clean_accuracy']:.2%}"
    for budget in result.get("budgets", ()):
        text += f"\n  {budget['epsilon_255']:g}/255: {100 * budget['accuracy']:.2f} %"
        if "noise_accuracy" in budget:
            text += f" (noise of that size: {100 * budget['noise_accuracy']:.2f} %)"
    for corruption, found in result.get("corruptions", {}).items():
        steps = " ".join(f"{100 * value:6.2f}" for value in found["severities"])
        text += f"\n  {corruption:18} {100 * found['accuracy']:6.2f} %   severities {steps}"
    for corruption, why in result["settings"].get("not_applicable", {}).items():
        text += f"\n  {corruption}: skipped, {why}"
    return text
