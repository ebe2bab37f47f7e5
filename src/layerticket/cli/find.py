"""`layerticket find`: a ticket at initialization, or in a run that trained the network."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from layerticket.cli.options import DataChoice, DeviceChoice, EnergyChoice, Json, bytes_of
from layerticket.cli.output import energy_text, forecast_text, say
from layerticket.criteria import criterion_names
from layerticket.data import Dataset
from layerticket.errors import LayerticketError
from layerticket.files import read_json
from layerticket.selection import Budget
from layerticket.study import Bench, find_in, find_in_run, run_folder
from layerticket.study.runs.record import RUN
from layerticket.training import Recipe

__all__ = ["Goal", "Measuring", "Rules", "Scoring", "Training", "find"]

CRITERIA = ", ".join(criterion_names())


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """How much is to go: one of these."""

    remove: int | None = None
    """Number of blocks to remove."""
    save_macs: float | None = None
    """Share of the multiply-accumulates to save at least, 0 to 1."""
    save_params: float | None = None
    """Share of the parameters to save at least, 0 to 1."""
    save_time: float | None = None
    """Share of the measured time of a training step to save at least, 0 to 1."""
    save_energy: float | None = None
    """Share of the metered energy of a training step to save at least, 0 to 1."""
    max_memory: str | None = None
    """Most memory training may take at its measured peak: bytes, or as in 2GiB."""

    def budget(self) -> Budget:
        """Hand over what was given."""
        return Budget(**asdict(self) | {"max_memory": bytes_of(self.max_memory)})


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Measuring:
    """What is measured on, for a measured budget and for a forecast."""

    batch_size: int = 128
    """Images a training step."""
    forecast_epochs: int | None = None
    """Forecast time, energy and carbon of this many epochs of training."""
    timing_rounds: int = 7
    """Rounds of steps that are timed, dense network and ticket in turns."""

    def bench(self, dataset: Dataset, energy: EnergyChoice, device: str) -> Bench:
        """Put together what is measured on."""
        return Bench(
            dataset=dataset,
            recipe=Recipe(epochs=self.forecast_epochs or 200, batch_size=self.batch_size),
            device=device,
            rounds=self.timing_rounds,
            metering=energy.metering(),
        )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """How blocks are scored; what is not given is as in the criterion's paper."""

    reduction: Literal["sum", "mean"] | None = None
    """Block score: sum (default) or mean over the block's weights."""
    normalization: Literal["batch", "running"] | None = None
    """Batch norm by the statistics of the batch (default) or the running averages."""
    temperature: float | None = None
    """Divides the logits in the loss; by default 200 for grasp, 1 for snip."""
    micro_batches: int | None = None
    """Parts the scoring batch is processed in, to bound memory."""
    hessian: Literal["auto", "shortcut", "exact"] | None = None
    """GraSP through the shortcut where it holds (auto, default), or as said."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """Which blocks must stay."""

    protect: tuple[str, ...] = ()
    """Patterns of blocks that must stay, e.g. "layer1.*"."""
    min_per_stage: int = 0
    """Removable blocks that must remain in every stage."""
    keep_neighbours: Annotated[bool, Parameter(negative=())] = False
    """Keep the blocks next to each down-sampling, as the paper's implementation does."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Find the ticket in a trained network and set it back (Algorithm 1)."""

    run: Path | None = None
    """Run that trained the network, with --keep; gives model, data and theta_0."""
    rewind: str | None = None
    """Epoch i the kept weights are set back to, or a share such as 25%; by default 0."""
    score_epoch: str | None = None
    """Epoch whose weights are scored, for early tickets; by default the last."""


def find(
    model: str | None = None,
    /,
    *,
    out: Path,
    goal: Goal = Goal(),
    criterion: Annotated[str, Parameter(help=f"One of {CRITERIA}.")] = "grasp",
    seed: int | None = None,
    rounds: int = 1,
    images: int | None = None,
    balanced: bool = True,
    scoring: Scoring = Scoring(),
    rules: Rules = Rules(),
    training: Training = Training(),
    choice: DataChoice = DataChoice(),  # noqa: B008
    measuring: Measuring = Measuring(),
    energy: EnergyChoice = EnergyChoice(),  # noqa: B008
    where: DeviceChoice = DeviceChoice(),  # noqa: B008
    json: Json = False,
) -> None:
    """Find a winning-ticket candidate: score the blocks, cut the lowest.

    At initialization, or with --run in a trained network, then set back to an epoch of training.

    Parameters
    ----------
    model
        resnet20 to resnet1202 (also with -projection), timm:NAME, torchvision:NAME,
        or package.module:function. With --run it is taken from there.
    out
        Folder the ticket is written to.
    seed
        Draws theta_0, the scoring images, and the scores of criterion random; by default 0, or
        that of --run, which has its theta_0 already.
    rounds
        Remove in so many rounds, scoring the smaller network anew in each.
    images
        Images to score on; by default ten of every class.
    balanced
        Draw equally many images of every class.
    """
    how: dict[str, Any] = {
        "budget": goal.budget(),
        "out": out,
        "criterion": criterion,
        "images": images,
        "balanced": balanced,
        "rounds": rounds,
        "rules": asdict(rules),
        "options": {name: value for name, value in asdict(scoring).items() if value is not None},
        "foresee": measuring.forecast_epochs is not None,
    }
    if training.run is not None:
        model, choice = _of_run(run_folder(training.run), model, choice)
    elif model is None or training != Training():
        raise _lacking(model)
    dataset = choice.load()
    how["bench"] = measuring.bench(dataset, energy, where.device)
    if training.run is not None:
        record = find_in_run(
            run_folder(training.run),
            dataset,
            seed=seed,
            rewind_to=training.rewind or 0,
            score_at=training.score_epoch or "100%",
            **how,
        )
    else:
        record = find_in(model, dataset, seed=seed or 0, **how)
    say(record, _text(model, record, choice), as_json=json)


def _lacking(model: str | None) -> LayerticketError:
    """Tell what is missing to find a ticket in."""
    return LayerticketError(
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
