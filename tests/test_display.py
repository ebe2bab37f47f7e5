"""Records print shortly, whatever they hold, and are tables in notebooks."""

import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

import layerticket as lt
from layerticket.comparison import Compared
from layerticket.display import Shown, few, shortened, strip, table_html
from layerticket.report.tables import Study
from layerticket.selection import select
from layerticket.training.checkpoint import Snapshot
from made_study import make_study


@pytest.fixture(scope="module")
def found():
    torch.manual_seed(0)
    model = lt.build_model("resnet20", classes=4, channels=1, seed=0)
    batch = torch.randn(8, 1, 12, 12), torch.arange(8) % 4
    blocks = lt.find_blocks(model, batch[0])
    scores = lt.score(model, blocks, batch, "snip")
    budget = lt.Budget(remove=3)
    return {
        "ticket": lt.find_ticket(model, batch, criterion="snip", budget=budget),
        "blocks": blocks,
        "scores": scores,
        "selection": select(scores.values, blocks, budget),
    }


@pytest.fixture(scope="module")
def records(found):
    study = make_study(seeds=3, failed=1, images=500)
    whole = Study.from_record(study)
    verdict = lt.judge([0.9, 0.91, 0.92], [0.9, 0.911, 0.921])
    return found | {
        "data": lt.load_data("digits"),
        "split": lt.load_data("digits").test,
        "verdict": verdict,
        "loss": lt.judge([2.0, 2.1], [2.2, 2.2], margin=0.1, lower_is_better=True, unit="nats"),
        "study": whole,
        "row": whole.rows[0],
        "failed row": next(row for row in whole.rows if row.error),
        "comparison": whole.comparisons[0],
        "compared": Compared(Path("here"), study),
    }


def test_a_ticket_is_five_lines(found):
    text = str(found["ticket"])
    lines = text.splitlines()
    assert len(lines) == 5
    assert lines[0] == "Ticket of CifarResNet: 3 of 7 removable blocks removed by snip"
    assert all(name in lines[1] for name in found["ticket"].removed)
    assert repr(found["ticket"]) == text


def test_every_record_prints_shortly_and_is_a_table_in_a_notebook(records):
    for name, one in records.items():
        assert isinstance(one, Shown), name
        lines = repr(one).splitlines()
        assert 1 <= len(lines) <= 10, name
        assert max(map(len, lines)) <= 100, name
        assert "tensor(" not in repr(one), name
        assert "tensor(" not in str(one), name
        ET.fromstring(f"<div>{one._repr_html_()}</div>")  # every element is closed
        if name != "split":
            assert "<table" in one._repr_html_(), name


def test_a_recipe_is_toml_on_a_screen_and_a_table_in_a_notebook():
    recipe = lt.Recipe(epochs=3, optimizer="adamw")
    assert tomllib.loads(str(recipe))["optimizer"] == "adamw"
    assert "<td" in recipe._repr_html_()
    assert "adamw" in recipe._repr_html_()


def test_snapshots_do_not_print_their_tensors():
    assert repr(Snapshot(epoch=3, weights={"a": torch.ones(3)})) == "Snapshot(epoch=3)"


def test_a_comparison_shows_its_table_and_the_interval(records):
    shown = records["compared"]._repr_html_()
    assert shown.count("<svg") == len(records["compared"].comparisons) == 7
    assert "random blocks" in shown
    assert "undecided" in shown


def test_names_in_a_notebook_stay_words():
    assert "&lt;b&gt;" in table_html(("<b>",), [("<b>",)])
    assert "<b>" not in table_html(("<b>",), [("<b>",)])
    assert "and 5 more" in table_html((), [(i,) for i in range(65)])


def test_an_interval_is_drawn_inside_its_picture():
    drawn = ET.fromstring(strip(0.0, -5.0, 0.5, -0.01, (-1.0, 1.0)))
    places = [float(v) for one in drawn for k, v in one.items() if k in ("x1", "x2", "cx")]
    assert min(places) == 4
    assert max(places) <= 196
    assert len(drawn) == 4
    assert len(ET.fromstring(strip(0.0, None, None, -0.01, (-1.0, 1.0)))) == 3


def test_long_lists_are_counted():
    assert few(range(12), 3) == "0, 1, 2 and 9 more"
    assert shortened("x" * 300, 50).endswith(" ...")
    assert len(shortened("x" * 300, 50)) == 50


def test_a_record_without_a_headline_cannot_be_made():
    class Untitled(Shown):
        pass

    with pytest.raises(TypeError, match="_headline"):
        Untitled()
