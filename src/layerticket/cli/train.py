"""`layerticket train`: train a dense network or a ticket, or resume its training."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from layerticket.cli.options import (
    DataOptions,
    Device,
    Folder,
    Json,
    alone,
    command_line,
    input_line,
)
from layerticket.cli.output import emit, log
from layerticket.models.names import check_model_name
from layerticket.settings import Whole
from layerticket.training.device import Metering, Where
from layerticket.training.distributed import DistributedOptions
from layerticket.training.recipe import Recipe
from layerticket.training.trackers import Trackers
from layerticket.verdict import words

if TYPE_CHECKING:
    from layerticket.ticket.ticket import Ticket


def train(
    model: str,
    /,
    *,
    ticket: Path | None = None,
    recipe: Recipe | None = None,
    preset: Literal["default", "he2016"] = "default",
    seed: Whole = 0,
    initialization: Literal["ticket", "seed"] = "ticket",
    init_seed: Whole | None = None,
    keep: str = "",
    out: Folder = Path("runs"),
    data: DataOptions = DataOptions(),
    device: Device = "auto",
    energy: Metering = Metering(),
    distributed: DistributedOptions = DistributedOptions(),
    trackers: Trackers = Trackers(),
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Train a network, or a ticket of it. The same command resumes an interrupted training.

    Parameters
    ----------
    model
        Name of the dense network, as for `find`.
    ticket
        Folder of a ticket or baseline to train in place of the dense network.
    preset
        Defaults of the recipe: those shown here, or he2016: the step schedule of He et al., 182
        epochs, plain momentum, weight decay 1e-4, no warm-up.
    seed
        Seed of the dense theta_0, and of order and augmentation of the images.
    initialization
        ticket: start from the ticket's own weights (a rewound ticket continues the schedule from
        its epoch); seed: start from random weights and train all epochs.
    init_seed
        Seed of random weights, for --initialization seed or a dense network; by default --seed.
    keep
        Epochs whose weights and optimizer are saved, to rewind to or to score: 0,25%,50%,75%.
    out
        Folder of all runs; each run has a folder in it, named by its configuration.
    dry_run
        Do not train; time a few steps of dense network and ticket, and forecast the training.
    """
    check_model_name(model)
    from layerticket.study.forecast import forecast_run
    from layerticket.study.measured_budget import TimingSetup
    from layerticket.study.record import Provenance
    from layerticket.study.train import Networks, train_network
    from layerticket.ticket.ticket import Ticket
    from layerticket.training.distributed import processes

    where = Where(device=device, metering=energy)
    with processes(device) as group:
        dataset = group.rank0_first(data.load)
        source = f"data {data.source}"
        given = {"shape": list(dataset.shape), "from": source}
        inputs = input_line(dataset.shape, source)
        if ticket is not None and initialization == "ticket":
            recipe = _recipe_for(Ticket.load(ticket), recipe, seed, show=group.rank == 0)
        recipe = recipe or Recipe()
        if dry_run:
            alone("train --dry-run")
            setup = TimingSetup(dataset=dataset, recipe=recipe, where=where)
            networks = Networks.of(dataset)
            predicted = forecast_run(networks, model, seed=seed, setup=setup, ticket=ticket)
            text = f"{words.forecast(predicted).rstrip()}\n{inputs}"
            emit(predicted | {"input": given}, text, as_json=json)
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
            validation_fraction=data.validation_fraction,
            where=where,
            provenance=Provenance(command=command_line()),
            distributed=distributed,
            tracking=trackers,
        )
    if group.rank == 0:
        text = f"{_text(model, record, ticket)}\n{inputs}"
        emit(record | {"input": given}, text, as_json=json)


def _text(model: str, record: Mapping[str, Any], ticket: Path | None) -> str:
    """Return the result and cost of a training as text."""
    slow = words.waiting(record["data_wait_share"])
    warning = f"Warning: {slow}.\n" if slow else ""
    return (
        f"{model}{' (ticket)' if ticket else ''}: test accuracy "
        f"{100 * record['test_accuracy']:.2f} % after {words.counted(record['epochs'], 'epoch')}, "
        f"{record['train_seconds']:.1f} s at {record['images_per_second']:.0f} images/s "
        f"({record['precision']}, {record['device']}, {words.share(record['data_wait_share'])} "
        f"waiting for data){words.electricity(record['energy_kwh'], record['co2_kg'])}.\n"
        f"{warning}Saved in {record['run']}"
    )


def _recipe_for(ticket: "Ticket", given: Recipe | None, seed: int, *, show: bool) -> Recipe | None:
    """Return the recipe of a ticket: as given, or that of its run if it was rewound."""
    if show and ticket.seed != seed:
        log(
            f"note: the ticket starts from its own theta_{ticket.rewind_epoch}, so seed {seed} "
            "only sets the data order; for new weights add --initialization seed."
        )
    if ticket.origin is None or not ticket.rewind_epoch or given is not None:
        return given
    if show:
        log(
            f"note: the ticket starts at epoch {ticket.rewind_epoch} of {ticket.origin.run}, with "
            f"the recipe of that run ({ticket.origin.recipe['epochs']} epochs)."
        )
    return Recipe(**ticket.origin.recipe)
