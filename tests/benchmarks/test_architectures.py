"""The table of architectures: rows can be made again, and the page is made from them."""

import json
from pathlib import Path

import pytest

from architectures import Spec, architectures_page, examine, read_specs, survey
from layerticket.errors import LayerticketError

REPO = Path(__file__).parents[2]
LIST = REPO / "benchmarks" / "architectures.toml"
RECORD = json.loads((REPO / "docs" / "results" / "architectures.json").read_text(encoding="utf-8"))
ROWS = {row["name"]: row for row in RECORD["rows"]}
AGAIN = (  # quick ones, each of another kind
    "timm:repvgg_a0",
    "torchvision:shufflenet_v2_x1_0",
    "transformers:LlamaForCausalLM",
    "transformers:BertForSequenceClassification",
    "transformers:AlbertForSequenceClassification",
)
TINY = {"vocab_size": 100, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}


def test_the_table_is_about_the_list_and_long_enough():
    assert list(ROWS) == [spec.name for spec in read_specs(LIST)]
    assert len(ROWS) >= 60
    libraries = {name.partition(":")[0] for name in ROWS}
    assert libraries == {"timm", "torchvision", "transformers"}
    assert not [name for name, row in ROWS.items() if "error" in row]
    for name, row in ROWS.items():
        assert row["blocks"] or row["reasons"], name  # a reason where none
        assert row["forward"] is not False, name


def test_the_page_is_made_from_the_record():
    page = (REPO / "docs" / "results" / "architectures.md").read_text(encoding="utf-8")
    assert page == architectures_page(RECORD)


@pytest.mark.parametrize("name", AGAIN)
def test_a_row_can_be_made_again(name):
    library = name.partition(":")[0]
    module = pytest.importorskip(library)
    if module.__version__.partition("+")[0] != RECORD["versions"][library].partition("+")[0]:
        pytest.skip(f"the table is about {library} {RECORD['versions'][library]}")
    (spec,) = (spec for spec in read_specs(LIST) if spec.name == name)
    assert json.loads(json.dumps(examine(spec))) == ROWS[name]


def tiny(name, layers=3):
    config = TINY | {"num_hidden_layers": layers, "use_cache": False}
    return Spec(name=name, inputs={"input_ids": [1, 6]}, config=config)


@pytest.mark.slow
def test_one_that_fails_does_not_stop_the_others_and_the_rest_is_not_made_again(tmp_path):
    pytest.importorskip("transformers")
    specs = [tiny("transformers:NoSuchNetwork"), tiny("transformers:LlamaForCausalLM")]
    told = []
    how = {"versions": {}, "report": told.append}
    rows = survey(specs, tmp_path / "rows.jsonl", **how)
    assert "has no class 'NoSuchNetwork'" in rows[0]["error"]
    assert rows[1]["blocks"] == 3
    assert rows[1]["macs_saving"] > 0.5
    assert len(told) == 2
    assert survey(specs, tmp_path / "rows.jsonl", **how) == rows
    assert len(told) == 2
    late = survey(specs[1:], tmp_path / "late.jsonl", seconds=0.01, **how)
    assert late[0]["error"] == "took over 0.01 s"


def test_a_list_that_is_none_is_refused(tmp_path):
    file = tmp_path / "list.toml"
    with pytest.raises(LayerticketError, match="is not a list of architectures"):
        read_specs(file)
    file.write_text("[keras]\nresnet = 1\n")
    with pytest.raises(LayerticketError, match=r"unknown tables \['keras'\]"):
        read_specs(file)
    file.write_text('[[transformers]]\nclass = "A"\n')
    with pytest.raises(LayerticketError, match="KeyError: 'inputs'"):
        read_specs(file)


def test_the_page_tells_failures():
    row = ROWS["transformers:LlamaForCausalLM"]
    bad = row | {"export": False, "removed": 2}
    failed = {"name": "timm:x", "inputs": {"images": [1, 3, 8, 8]}, "error": "took | long"}
    page = architectures_page(RECORD | {"rows": [bad, failed]})
    assert "**not**: export" in page
    assert f"| 2 of {row['blocks']} |" in page
    assert "not examined: took / long" in page
    assert "2 architectures" in page
    assert "0 of these failed no check" in page
