"""`layerticket find`: a ticket at initialization, or in a run that trained the network."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from layerticket.blocks import Granularity
from layerticket.cli.find_options import Goal, Measuring, Rules, Scoring, Training
from layerticket.cli.options import DataChoice, DeviceChoice, EnergyChoice, Json
from layerticket.cli.output import energy_text, forecast_text, say
from layerticket.cli.rivals import (
    RivalChoice,
    RivalRequest,
    find_rival,
    refuse_beside_a_rival,
    rival_text,
)
from layerticket.criteria import criterion_names
from layerticket.data import Dataset
from layerticket.errors import LayerticketError
from layerticket.files import read_json
from layerticket.study import find_in, find_in_run, run_folder
from layerticket.study.runs.record import RUN

__all__ = ["Goal", "Measuring", "Rules", "Scoring", "Training", "find"]

CRITERIA = ", ".join(criterion_names())


def find(
    model: str | None = None,
    /,
    *,
    out: Path,
    goal: Goal = Goal(),  # noqa: B008
    criterion: Annotated[str, Parameter(help=f"One of {CRITERIA}.")] = "grasp",
    granularity: Granularity = "block",
    seed: int | None = None,
    rounds: int | None = None,
    images: int | None = None,
    balanced: bool = True,
    scoring: Scoring = Scoring(),  # noqa: B008
    rules: Rules = Rules(),  # noqa: B008
    training: Training = Training(),  # noqa: B008
    rival: RivalChoice = RivalChoice(),  # noqa: B008
    choice: DataChoice = DataChoice(),  # noqa: B008
    measuring: Measuring = Measuring(),  # noqa: B008
    energy: EnergyChoice = EnergyChoice(),  # noqa: B008
    where: DeviceChoice = DeviceChoice(),  # noqa: B008
    json: Json = False,
) -> None:
    """Find a winning-ticket candidate: score the blocks, cut the lowest.

    At initialization, or with --run in a trained network, then set back to an epoch of training.
    With --rival, what such a ticket has to beat, at the cost of the ticket given as --reference.

    Parameters
    ----------
    model
        resnet20 to resnet1202 (also with -projection), timm:NAME, torchvision:NAME,
        hf:CONFIG-OR-FOLDER, or package.module:function. With --run it is taken from there.
    out
        Folder the ticket is written to.
    granularity
        block: a block goes as a whole; branch: attention and multilayer perceptron by themselves.
    seed
        Draws theta_0, the scoring images, and the scores of criterion random; by default 0, that of
        --run, which has its theta_0 already, or that of --reference.
    rounds
        Remove in so many rounds, scoring the smaller network anew in each; by default 1, for
        synflow on weights 100, for weights of a --run as many as it takes at a fifth each.
    images
        Images to score on; by default ten of every class.
    balanced
        Draw equally many images of every class.
    """
    run = None if training.run is None else run_folder(training.run)
    shared: dict[str, Any] = {"criterion": criterion, "out": out, "rounds": rounds}
    shared["options"] = {k: value for k, value in asdict(scoring).items() if value is not None}
    images_of = {"images": images, "balanced": balanced}
    if rival.rival is not None:
        whole = granularity == "block"
        refuse_beside_a_rival(goal=goal, rules=rules, measuring=measuring, granularity=not whole)
        model, choice = _network(model, run, training, choice)
        place = {"metering": energy.metering(), "device": where.device}
        request = RivalRequest(
            **shared, seed=seed, images=images_of, where=place, run=run, rewind=training.rewind
        )
        found = find_rival(rival, model, choice.load(), request)
        say(found, rival_text(model, found, rival, choice), as_json=json)
        return
    how = shared | images_of | {"budget": goal.budget(), "rules": asdict(rules)}
    how["rounds"] = 1 if rounds is None else rounds
    how["granularity"] = granularity
    how["foresee"] = measuring.forecast_epochs is not None
    model, choice = _network(model, run, training, choice)
    dataset = choice.load()
    how["bench"] = measuring.bench(dataset, energy, where.device)
    record = _find_ticket(model, run, dataset, seed, training, how)
    say(record, _text(model, record, choice), as_json=json)


def _find_ticket(
    model: str,
    run: Path | None,
    dataset: Dataset,
    seed: int | None,
    training: Training,
    how: dict[str, Any],
) -> dict[str, Any]:
    """Find a ticket at initialization, or in a run."""
    if run is None:
        return find_in(model, dataset, seed=seed or 0, **how)
    points = how | {
        "rewind_to": training.rewind or 0,
        "score_at": training.score_epoch or "100%",
    }
    return find_in_run(run, dataset, seed=seed, **points)


def _network(
    model: str | None, run: Path | None, training: Training, choice: DataChoice
) -> tuple[str, DataChoice]:
    """Tell which network on which data, as given or as in a run."""
    if run is not None:
        return _of_run(run, model, choice)
    if model is not None and training == Training():
        return model, choice
    raise LayerticketError(
        "--rewind and --score-epoch need a trained network: give --run RUN."
        if model
        else "there is no network to find a ticket in: give MODEL, or --run RUN."
    )


def _of_run(run: Path, model: str | None, choice: DataChoice) -> tuple[str, DataChoice]:
    """Take model and data from a run; what is given as well has to agree with it."""
    config = read_json(run / RUN)["config"]
    given = {"model": model, "data": choice.data, "validation_fraction": choice.validation_fraction}
    unset = {"model": None} | asdict(DataChoice())
    for name, value in given.items():
        if value not in (unset[name], config[name]):
            raise LayerticketError(
                f"{name} is {value!r}, but {run} is about {config[name]!r}. Leave it out: it is "
                "taken from the run."
            )
    fields = {name: config[name] for name in ("data", "validation_fraction")}
    return config["model"], replace(choice, **fields)


def _text(model: str, record: dict[str, Any], choice: DataChoice) -> str:
    """Tell what was found, and how to go on."""
    folder = "" if choice.data_dir is None else f" --data-dir {choice.data_dir}"
    macs, params, origin = record["macs"], record["params"], record["origin"]
    history = (
        f"Scored at epoch {origin['scored_epoch']} of {origin['run']}, set back to epoch "
        f"{origin['rewind_epoch']} of {origin['recipe']['epochs']}.\n"
        if origin
        else ""
    )
    return history + (
        f"{record['criterion']} ticket of {model}: {len(record['removed'])} blocks removed "
        f"({', '.join(record['removed'])}), {len(record['kept'])} removable blocks kept.\n"
        f"MACs {macs['dense'] / 1e6:.2f} M -> {macs['ticket'] / 1e6:.2f} M "
        f"({1 - macs['ticket'] / macs['dense']:.1%} saved), parameters {params['dense']:,} -> "
        f"{params['ticket']:,}; scored in {record['score_seconds']:.2f} s, "
        f"{energy_text(record['search_energy_kwh'], record['search_co2_kg'])}.\nSaved in "
        f"{record['ticket']}. Train it: layerticket train {model} --ticket {record['ticket']} "
        f"--data {choice.data}{folder}" + forecast_text(record["forecast"])
    )
