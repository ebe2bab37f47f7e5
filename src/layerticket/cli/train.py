"""`layerticket train`: a dense network or a ticket, resumable."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from layerticket.cli.options import (
    DataChoice,
    DeviceChoice,
    Json,
    alone,
    command_line,
)
from layerticket.cli.output import energy_text, forecast_text, news, say
from layerticket.evaluation.energy import Metering
from layerticket.study.forecast import forecast_run
from layerticket.study.measure import TimingSetup
from layerticket.study.record import Provenance
from layerticket.study.train import Networks, train_network
from layerticket.ticket.ticket import Ticket
from layerticket.training.distributed import Spread, processes
from layerticket.training.recipe import Recipe, he2016
from layerticket.training.trackers import TRACKERS, Tracking

DEFAULTS = Recipe()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class RecipeChoice:
    """How to train."""

    epochs: int = DEFAULTS.epochs
    """Passes over the training images."""
    preset: Literal["default", "he2016"] = "default"
    """default: Nesterov momentum and cosine; he2016: the step schedule of He et al."""
    batch_size: int = DEFAULTS.batch_size
    """Images a step."""
    learning_rate: float = DEFAULTS.learning_rate
    """Peak learning rate."""
    weight_decay: float | None = None
    """On weights, not on normalizations and biases; by default that of the preset."""
    warmup_epochs: float | None = None
    """Epochs of linear warm-up; by default those of the preset."""
    label_smoothing: float = DEFAULTS.label_smoothing
    """Share of the target spread over all classes."""
    precision: Literal["auto", "bf16", "fp32"] = DEFAULTS.precision
    """Number format; auto: bf16 where the hardware has it."""
    compile: Literal["auto", "on", "off"] = DEFAULTS.compile
    """Whether torch.compile is used; auto: on GPUs, in long runs."""

    def recipe(self) -> Recipe:
        """Complete the choices with those of the preset."""
        base = he2016(self.epochs) if self.preset == "he2016" else Recipe(epochs=self.epochs)
        decay, warmup = self.weight_decay, self.warmup_epochs
        return replace(
            base,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=base.weight_decay if decay is None else decay,
            warmup_epochs=base.warmup_epochs if warmup is None else warmup,
            label_smoothing=self.label_smoothing,
            precision=self.precision,
            compile=self.compile,
        )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class SpreadChoice:
    """Several processes, started by torchrun or accelerate launch."""

    shard: Annotated[bool, Parameter(negative=())] = False
    """Divide weights, gradients and momentum over the processes, for networks that do not fit."""
    sync_batch_norm: Annotated[bool, Parameter(negative=())] = False
    """Let batch norms see the images of all processes (GPUs only)."""

    def spread(self) -> Spread:
        """Hand over what was chosen."""
        return Spread(shard=self.shard, sync_batch_norm=self.sync_batch_norm)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class TrackChoice:
    """Curves of the training, for programs that show them."""

    track: Annotated[
        tuple[str, ...], Parameter(help=f"Trackers to log to: {', '.join(TRACKERS)}.")
    ] = ()
    track_dir: Path | None = None
    """Folder for what trackers write; by default `tracking` in the folder of the run."""

    def tracking(self) -> Tracking:
        """Hand over what was chosen."""
        return Tracking(trackers=self.track, folder=self.track_dir)


def train(
    model: str,
    /,
    *,
    ticket: Path | None = None,
    how: RecipeChoice = RecipeChoice(),
    seed: int = 0,
    initialization: Literal["ticket", "seed"] = "ticket",
    init_seed: int | None = None,
    keep: str = "",
    out: Path = Path("runs"),
    choice: DataChoice = DataChoice(),  # noqa: B008
    where: DeviceChoice = DeviceChoice(),  # noqa: B008
    energy: Metering = Metering(),  # noqa: B008
    several: SpreadChoice = SpreadChoice(),
    curves: TrackChoice = TrackChoice(),
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Train a network, or the ticket found in it. The same command resumes what was interrupted.

    Parameters
    ----------
    model
        Name of the dense network, as given to `find`.
    ticket
        Folder of a ticket, or of a rival of tickets, to train in place of the dense network.
    seed
        Draws theta_0 of a dense network, and order and augmentation of the images.
    initialization
        A ticket starts at its own weights (a rewound one goes on with the schedule from its
        epoch), or at random weights and trains all epochs.
    init_seed
        Draws the random weights of --initialization seed, or of a dense network; by default --seed.
    keep
        Epochs whose weights and optimizer are kept, to rewind to and to score: 0,25%,50%,75%.
    out
        Folder of all runs; the run's folder in it is named by its configuration.
    dry_run
        Train nothing: time a few steps of dense network and ticket, and forecast the training.
    """
    tracking, metering = curves.tracking(), energy
    with processes(where.device) as team:
        recipe, dataset = how.recipe(), team.in_turn(choice.load)
        if ticket is not None and initialization == "ticket":
            recipe = _recipe_for(Ticket.load(ticket), how, seed, aloud=team.rank == 0)
        if dry_run:
            alone("train --dry-run")
            setup = TimingSetup(
                dataset=dataset, recipe=recipe, device=where.device, metering=metering
            )
            networks = Networks.of(dataset)
            foreseen = forecast_run(networks, model, seed=seed, setup=setup, ticket=ticket)
            say(foreseen, forecast_text(foreseen).strip(), as_json=json)
            return
        record = train_network(
            model,
            dataset,
            recipe,
            seed=seed,
            out=out,
            ticket=ticket,
            initialization=initialization,
            initialization_seed=init_seed,
            snapshots=keep,
            validation_fraction=choice.validation_fraction,
            device=where.device,
            progress=True,
            provenance=Provenance(command=command_line()),
            metering=metering,
            spread=several.spread(),
            tracking=tracking,
        )
    if team.rank == 0:
        say(record, _text(model, record, ticket), as_json=json)


def _text(model: str, record: Mapping[str, Any], ticket: Path | None) -> str:
    """Tell how training ended, and what it took."""
    return (
        f"{model}{' (ticket)' if ticket else ''}: test accuracy "
        f"{100 * record['test_accuracy']:.2f} % after {record['epochs']} epochs, "
        f"{record['train_seconds']:.1f} s at {record['images_per_second']:.0f} images/s "
        f"({record['precision']}, {record['device']})"
        f"{energy_text(record['energy_kwh'], record['co2_kg'])}.\nSaved in {record['run']}"
    )


def _recipe_for(ticket: Ticket, how: RecipeChoice, seed: int, *, aloud: bool) -> Recipe:
    """Tell what a ticket's own weights entail; a rewound one brings the recipe of its run."""
    tell = news if aloud else _hush
    if ticket.seed != seed:
        tell(
            f"note: the ticket starts at its own theta_{ticket.rewind_epoch}, and seed {seed} "
            "decides the data order only; --initialization seed draws weights anew."
        )
    if ticket.origin is None or not ticket.rewind_epoch or how != RecipeChoice():
        return how.recipe()
    tell(
        f"note: the ticket goes on from epoch {ticket.rewind_epoch} of {ticket.origin.run}, with "
        f"the recipe of that run ({ticket.origin.recipe['epochs']} epochs)."
    )
    return Recipe(**ticket.origin.recipe)


def _hush(line: str) -> None:
    """Leave a line to process 0."""
