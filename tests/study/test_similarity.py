"""Which layer of a rival stands for which of the dense network, and over which the mean is."""

from pathlib import Path

import pytest
import torch

from hf_families import FAMILIES
from layerticket.blocks.find import find_blocks
from layerticket.evaluation.similarity import HEAD, STEM, similarity
from layerticket.models.load import build_model
from layerticket.selection import Budget
from layerticket.study.evaluate import counterparts, similarity_of, stage_ends
from layerticket.study.methods import TicketMethod
from layerticket.study.search import Search, find
from layerticket.study.train import Networks, train_network
from layerticket.surgery.remove import remove_blocks
from layerticket.training.device import Where
from layerticket.training.recipe import Recipe
from toy_lottery import few_digits


@pytest.mark.parametrize("gone", [[1], [0], [0, 1]])
def test_what_is_renumbered_is_compared_with_itself(gone):
    pytest.importorskip("transformers")
    family = FAMILIES["vit"]
    dense = family.build()
    names = [block.name for block in find_blocks(dense, family.inputs)]
    removed = [names[i] for i in gone]
    small = remove_blocks(dense, find_blocks(dense, family.inputs).named(removed)).eval()
    inputs = {"pixel_values": torch.randn(6, 3, 32, 32, generator=torch.manual_seed(0))}
    same = counterparts(dense, names, removed)
    for name, called in same.items():
        if name != STEM:
            assert torch.equal(
                next(small.get_submodule(called).parameters()),
                next(dense.get_submodule(name).parameters()),
            )
    found = similarity(dense, small, names, inputs, counterparts=same)
    assert {name for name, value in found.items() if value is None} == set(removed)
    assert found[STEM] == pytest.approx(1)
    before = names[: gone[0]]
    assert [found[name] for name in before] == pytest.approx([1.0] * len(before))
    assert all(found[name] < 1 - 1e-7 for name in (*names[gone[-1] + 1 :], HEAD))


def test_names_stay_where_blocks_leave_a_gap():
    dense = build_model("resnet20", classes=10, channels=3, seed=0)
    names = [f"layer1.{i}" for i in range(3)]
    expected = {STEM: "layer1.0", "layer1.1": "layer1.1", "layer1.2": "layer1.2"}
    assert counterparts(dense, names, ["layer1.0"]) == expected


def test_stages_of_other_depths_meet_at_their_ends():
    deep = [f"layer{s}.{i}" for s in (1, 2) for i in range(5)]
    flat = [f"layer{s}.{i}" for s in (1, 2) for i in range(3)]
    expected = {STEM: "layer1.0", "layer1.4": "layer1.2", "layer2.4": "layer2.2"}
    assert stage_ends(deep, flat) == expected
    assert stage_ends(deep, flat[:3]) == {STEM: "layer1.0"}
    assert stage_ends(deep, []) == {}


def test_the_mean_says_what_it_is_over(tmp_path):
    data, how = few_digits(), {"seed": 0, "where": Where(device="cpu", progress=False)}
    recipe = Recipe(epochs=1, batch_size=128, precision="fp32")
    names = ("resnet32-projection", "resnet20-projection")
    networks = Networks.of(data)
    at = Search(
        networks=networks, model=names[0], dataset=data, budget=Budget(remove=1), seed=0,
        out=tmp_path / "t",
    )  # fmt: skip
    find(TicketMethod(criterion="snip"), at)
    deep, flat = (train_network(n, data, recipe, out=tmp_path, **how)["run"] for n in names)
    cut = train_network(names[0], data, recipe, out=tmp_path, ticket=tmp_path / "t", **how)["run"]
    found = similarity_of(data, networks, Path(flat), Path(deep), images=20)
    ends = [name for name, value in found["layers"].items() if value is not None]
    assert (
        ends == found["mean_over"] == [STEM, *(n for n in found["layers"] if n[-2:] == ".4"), HEAD]
    )
    assert len(ends) == 5
    found = similarity_of(data, networks, Path(cut), Path(deep), images=20)
    assert len(found["mean_over"]) == len(found["layers"]) - 1
    values = [found["layers"][name] for name in found["mean_over"]]
    assert found["mean"] == pytest.approx(sum(values) / len(values))
