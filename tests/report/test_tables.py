from layerticket.report.tables import blocks_table, markdown, table_text

TABLE = (
    ("", "dense", "grasp ticket"),
    [("accuracy, %", "90.00 ± 1.00", "89.50"), ("MACs", "4 M", "3 M")],
)


def test_markdown_has_one_line_a_row_and_the_terminal_shows_all_cells():
    lines = markdown(TABLE).splitlines()
    assert lines[0] == "|  | dense | grasp ticket |"
    assert lines[1] == "| --- | --- | --- |"
    assert len(lines) == 4
    text = table_text(TABLE, width=80)
    assert all(cell in text for row in TABLE[1] for cell in row)
    assert max(len(line) for line in text.splitlines()) <= 80


def test_blocks_are_listed_with_their_share():
    block = {"name": "a", "stage": 0, "params": 1234, "macs": 250_000}
    _, rows = blocks_table({"macs": 1_000_000, "blocks": [block]})
    assert rows == [("a", "0", "1,234", "0.250 M", "25.00%")]
