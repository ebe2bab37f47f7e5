"""`layerticket study`: run many trainings from one file, and show their status."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.live import Live
from rich.table import Table

from layerticket.cli.options import Folder, Json, command_line
from layerticket.cli.output import StudyFailedError, emit, log
from layerticket.errors import LayerticketError
from layerticket.study.running.executors import Workers, start_fork_server
from layerticket.verdict import words

if TYPE_CHECKING:
    from layerticket.study.status import StudyStatus


def new(file: Path, /, *, json: Json = False) -> None:
    """Write a study file with every setting explained, to edit and run.

    Parameters
    ----------
    file
        File to write; a file that exists is not replaced.
    """
    from layerticket.study.toml import write_template

    write_template(file.expanduser())
    text = f"Wrote {file}. Edit it, then: layerticket study run {file} --out {file.stem}"
    emit({"file": str(file)}, text, as_json=json)


def run(
    file: str,
    /,
    *,
    out: Folder,
    change: Annotated[
        tuple[str, ...], Parameter(name="--set", help="Change a setting: recipe.epochs=4.")
    ] = (),
    only: tuple[str, ...] = (),
    data_dir: Path | None = None,
    shift_dir: Path | None = None,
    workers: Workers = Workers(),
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Run a study. The same command resumes it, or runs only what was added.

    Parameters
    ----------
    file
        A TOML file, or the bare name of a study of the package: quick, table1 ... table5.
    out
        Folder of the study: searches, trainings, jobs, study.json and runs.csv.
    only
        Ids of single runs, as in study.json; by default all.
    data_dir
        Folder with the CIFAR files.
    shift_dir
        Folder with files of shifted images; --data-dir is searched too.
    dry_run
        Do not run: time a few steps of each dense network, and print how long the study takes.
    """
    from layerticket.study.toml import read_study

    study = read_study(file, change)  # a wrong file fails before torch is imported
    if dry_run:
        if only:
            raise LayerticketError("--dry-run is for a whole study. Leave out --only.")
        from layerticket.study.running.engine import forecast_study

        found = forecast_study(study, workers=workers, data_dir=data_dir)
        emit(found, words.study_forecast(found), as_json=json)
        return
    if workers.executor == "local":
        start_fork_server(workers.threads or 1)  # it imports torch while this process does
    from layerticket.study.running.engine import run_study

    with watched() as show:
        record = run_study(
            study,
            out,
            workers=workers,
            data_dir=data_dir,
            shift_dir=shift_dir,
            only=only,
            command=command_line(),
            report=show,
        )
    emit(record, _summary(record, out), as_json=json)
    failed = [row for row in record["runs"] if row["status"] == "failed"]
    if failed:
        for row in failed:
            log(f"failed: {_name(row)}: {row['error']} (log: {out / str(row['log'])})")
        raise StudyFailedError(f"{len(failed)} of {len(record['runs'])} runs failed; see above.")


def status(folder: Path, /, *, json: Json = False) -> None:
    """Show how far a study is, also while it runs.

    Parameters
    ----------
    folder
        Folder of the study.
    """
    from layerticket.study.status import study_status

    record = study_status(folder)
    lines = [_line(record)]
    lines += [f"failed: {run}: {error}" for run, error in record["failures"].items()]
    emit(record, "\n".join(lines), as_json=json)


@contextmanager
def watched() -> Iterator[Callable[["StudyStatus"], None]]:
    """Show the status of a study: live on a terminal, else one line when a row ends."""
    console = Console(stderr=True)
    if not console.is_terminal:
        shown: list[tuple[int, ...]] = []

        def line(status: "StudyStatus") -> None:
            now = (status.done, status.failed)
            if now not in shown:
                shown.append(now)
                log(_line(asdict(status)))

        yield line
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield lambda status: live.update(_picture(asdict(status)))


def _picture(status: Mapping[str, Any]) -> Table:
    """Return the status of a study as a table for the terminal."""
    table = Table.grid(padding=(0, 2))
    for name in ("done", "running", "failed", "waiting"):
        table.add_row(name, f"{status[name]:>5} of {status['total']} runs")
    table.add_row("epochs", f"{status['epochs_done']:>5} of {status['epochs']}")
    table.add_row("training", words.duration(status["train_seconds"]))
    if energy := words.electricity(status["energy_kwh"], status["co2_kg"], before=""):
        table.add_row("energy", energy)
    table.add_row("time left", _left(status))
    return table


def _line(status: Mapping[str, Any]) -> str:
    """Return the status of a study in one line."""
    counts = ", ".join(f"{status[n]} {n}" for n in ("done", "running", "failed", "waiting"))
    return (
        f"{counts} of {status['total']} runs; {status['epochs_done']} of {status['epochs']} "
        f"epochs, {words.duration(status['train_seconds'])} of training"
        f"{words.electricity(status['energy_kwh'], status['co2_kg'])}; {_left(status)}"
    )


def _left(status: Mapping[str, Any]) -> str:
    seconds = status["seconds_left"]
    return "time left unknown" if seconds is None else f"about {words.duration(seconds)} left"


def _summary(record: Mapping[str, Any], out: Path) -> str:
    """Return as text the mean accuracy of each method, and the verdict if there is one."""
    cells: dict[tuple[str, ...], list[float]] = {}
    for row in record["runs"]:
        key = (row["model"], row["budget"] or "-", row["method"])
        accuracies = cells.setdefault(key, [])
        if row["test_accuracy"] is not None:
            accuracies.append(row["test_accuracy"])
    data = record["data"]
    lines = [record["title"] if data is None else f"{record['title']} ({data})"]
    lines += [
        f"  {model:20} {budget:14} {method:28} "
        + (f"{100 * sum(v) / len(v):6.2f} % (n = {len(v)})" if v else "not finished")
        for (model, budget, method), v in cells.items()
    ]
    lines += [record["verdict"]] if record["verdict"] else []
    return "\n".join([*lines, f"Saved in {out}: study.json, runs.csv, trainings/, searches/"])


def _name(row: Mapping[str, Any]) -> str:
    """Return a readable name of a row."""
    return f"{row['model']}, {row['method']}, {row['budget'] or 'dense'}, seed {row['seed']}"
