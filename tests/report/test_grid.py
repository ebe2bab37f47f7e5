from layerticket.report.tables import Column, Grid, Table, csv_text, text_table

GRID = Grid(
    name="t",
    title="T",
    columns=[
        Column(title="network", words=True, context=True),
        Column(title="method", words=True),
        Column(title="accuracy", show=lambda v: f"{100 * v:.1f} %"),
        Column(title="difference", show=lambda v: f"{v[0]:+.1f}", parts=("mean", "low")),
    ],
    rows=[("a", "=SUM(A1)", 0.912345, (1.0, None)), ("a", "snip", None, None)],
)


def test_people_read_rounded_figures_and_no_repeated_context():
    table: Table = text_table(GRID)
    assert table == (
        ["method", "accuracy", "difference"],
        [["=SUM(A1)", "91.2 %", "+1.0"], ["snip", "not measured", "not measured"]],
    )


def test_csv_has_every_column_raw_and_runs_no_formula():
    assert csv_text(GRID) == (
        "network,method,accuracy,difference mean,difference low\n"
        "a,'=SUM(A1),0.912345,1.0,\na,snip,,,\n"
    )
