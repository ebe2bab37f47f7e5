"""``python -m layerticket.cli.table1``: the paper's Table 1, resumable; no verb of its own."""

import shlex
import sys
from pathlib import Path

from cyclopts import App, Parameter

from layerticket.cli.app import main
from layerticket.cli.options import DataChoice, DeviceChoice, Json
from layerticket.cli.output import news, say
from layerticket.cli.train import RecipeChoice
from layerticket.files import write_atomically
from layerticket.report.table1 import lottery_page, lottery_rows
from layerticket.report.tables import table_text
from layerticket.selection import Budget
from layerticket.study.tables.table1 import PAPER_POINTS, PAPER_TABLE_1, Table1, lottery_table

__all__ = ["program", "table1"]

program = App(
    name="python -m layerticket.cli.table1",
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)


@program.default
def table1(
    *,
    out: Path,
    model: str = "resnet32",
    criteria: tuple[str, ...] = tuple(PAPER_TABLE_1),
    remove: int = 1,
    points: tuple[str, ...] = PAPER_POINTS,
    seeds: int = 5,
    first_seed: int = 0,
    margin: float = 0.01,
    how: RecipeChoice = RecipeChoice(),  # noqa: B008 - frozen
    choice: DataChoice = DataChoice(),  # noqa: B008 - frozen
    where: DeviceChoice = DeviceChoice(),  # noqa: B008 - frozen
    json: Json = False,
) -> None:
    """Train a network, find tickets in it by several criteria, rewind, train, compare to dense.

    The same command goes on where it was cut off. Processes with other seeds may share --out.

    Parameters
    ----------
    out
        Folder for tickets, runs, seeds/, table1.json and table1.md.
    model
        Name of the dense network.
    criteria
        Criteria that score the trained network, the rows.
    remove
        Blocks every ticket removes.
    points
        Epochs to rewind to, or shares of training, the columns.
    seeds
        Number of paired seeds to work on.
    first_seed
        The first of them.
    margin
        How much accuracy a winning ticket may lose, as a fraction.
    """
    what = Table1(
        model=model,
        recipe=how.recipe(),
        budget=Budget(remove=remove),
        points=points,
        margin=margin,
        validation_fraction=choice.validation_fraction,
    )
    summary = lottery_table(
        what,
        choice.load(),
        criteria=criteria,
        seeds=tuple(range(first_seed, first_seed + seeds)),
        out=out,
        device=where.device,
        command=shlex.join(["python", "-m", "layerticket.cli.table1", *sys.argv[1:]]),
        tell=news,
    )
    write_atomically(out / "table1.md", lottery_page(summary))
    text = f"{table_text(lottery_rows(summary))}\nSaved in {out}: table1.json, table1.md"
    say(summary, text, as_json=json)


if __name__ == "__main__":
    sys.exit(main(program=program))
