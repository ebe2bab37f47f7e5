"""`layerticket demo`: find, train dense and ticket over paired seeds, judge."""

from pathlib import Path

from layerticket.cli.options import DataChoice, DeviceChoice, Json, command_line
from layerticket.cli.output import news, say
from layerticket.report.tables import comparison_page, comparison_table, table_text
from layerticket.selection import Budget
from layerticket.study.tables.paired import Comparison, compare_paired
from layerticket.training.recipe import Recipe


def demo(
    *,
    model: str = "resnet32",
    remove: int = 5,
    criteria: tuple[str, ...] = ("grasp",),
    seeds: int = 5,
    epochs: int = 20,
    margin: float = 0.01,
    out: Path = Path("demo"),
    choice: DataChoice = DataChoice(),  # noqa: B008 - frozen
    where: DeviceChoice = DeviceChoice(),  # noqa: B008 - frozen
    json: Json = False,
) -> None:
    """Show the whole story: find tickets at initialization, train, compare over paired seeds.

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
    out
        Folder for tickets, runs, summary.json and report.md.
    """
    what = Comparison(
        model=model,
        recipe=Recipe(epochs=epochs),
        criteria=criteria,
        budget=Budget(remove=remove),
        seeds=tuple(range(seeds)),
        margin=margin,
        validation_fraction=choice.validation_fraction,
    )
    summary = compare_paired(
        what,
        choice.load(),
        out=out,
        device=where.device,
        progress=True,
        command=command_line(),
        tell=news,
    )
    table = comparison_table(summary)
    (out / "report.md").write_text(comparison_page(summary), encoding="utf-8")
    judged = [row for row in summary["rows"] if row["method"] != "dense"]
    lines = [
        f"{model} on {summary['data']}, {seeds} paired seeds, {epochs} epochs, {remove} blocks "
        "removed; accuracy on the test set, mean ± standard deviation over seeds",
        "",
        table_text(table),
        *(f"{row['method']}: {row['verdict']['sentence']}" for row in judged),
        f"Saved in {out}: tickets/, runs/, summary.json, report.md",
    ]
    say(summary, "\n".join(lines), as_json=json)
