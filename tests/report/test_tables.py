from layerticket.report.tables import blocks_table, comparison_table, markdown, table_text


def figure(mean, std):
    return {"mean": mean, "std": std}


SUMMARY = {
    "margin": 0.01,
    "rows": [
        {
            "method": "dense",
            "test_accuracy": figure(0.9, 0.01),
            "macs": figure(4e6, 0),
            "params": figure(1000, 0),
            "train_seconds": figure(10, 1),
        },
        {
            "method": "grasp",
            "test_accuracy": figure(0.895, None),
            "macs": figure(3e6, 0),
            "params": figure(900, 0),
            "train_seconds": figure(8, 1),
            "training_speedup": {"mean": 1.25},
            "verdict": {"mean": -0.005, "low": None, "high": None, "outcome": "undecided"},
        },
    ],
}


def test_figures_keep_unit_and_sign():
    header, rows = comparison_table(SUMMARY)
    assert header == ("", "dense", "grasp ticket")
    assert rows == [
        ("test accuracy, %", "90.00 ± 1.00", "89.50"),
        ("difference, pp (95 % interval)", "", "-0.50"),
        ("MACs", "4.00 M", "3.00 M (-25.0%)"),
        ("parameters", "1,000", "900 (-10.0%)"),
        ("training, s", "10.0 ± 1.0", "8.0 ± 1.0 (1.25x faster)"),
        ("verdict (margin 1 pp)", "", "undecided"),
    ]


def test_markdown_has_one_line_a_row_and_the_terminal_shows_all_cells():
    table = comparison_table(SUMMARY)
    lines = markdown(table).splitlines()
    assert lines[0] == "|  | dense | grasp ticket |"
    assert lines[1] == "| --- | --- | --- |"
    assert len(lines) == 8
    text = table_text(table, width=80)
    assert all(cell in text for row in table[1] for cell in row)
    assert max(len(line) for line in text.splitlines()) <= 80


def test_blocks_are_listed_with_their_share():
    block = {"name": "a", "stage": 0, "params": 1234, "macs": 250_000}
    _, rows = blocks_table({"macs": 1_000_000, "blocks": [block]})
    assert rows == [("a", "0", "1,234", "0.250 M", "25.00%")]
