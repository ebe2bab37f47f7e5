"""Block costs and tickets for them, with a clock that counts work instead of time."""

import statistics
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from layerticket.blocks.find import find_blocks
from layerticket.counting import count_macs
from layerticket.data.dataset import noise
from layerticket.errors import LayerticketError
from layerticket.models.load import build_model
from layerticket.selection import Budget
from layerticket.study import forecast as forecasting
from layerticket.study import measured_budget as measuring
from layerticket.study.forecast import forecast
from layerticket.study.measured_budget import (
    Steps,
    TimingSetup,
    block_costs,
    find_measured,
    measure_steps,
    memory_costs,
)
from layerticket.ticket.find import find_ticket
from layerticket.training.device import Energy, Metering, Where
from layerticket.training.recipe import Recipe

DATA = noise((3, 8, 8), classes=10, images=64)
SETUP = TimingSetup(
    dataset=DATA,
    recipe=Recipe(epochs=3, batch_size=8, precision="fp32", compile="off"),
    where=Where(device="cpu"),
    rounds=3,
)
METERED = replace(SETUP, where=Where(device="cpu", metering=Metering(carbon_intensity=0.5)))
BATCH = (torch.rand(8, 3, 8, 8), torch.arange(8))


def network():
    return build_model("resnet20", classes=10, channels=3, seed=0)


@pytest.fixture
def exact_clock(monkeypatch):
    """A step takes 1 s and 1 s per million of MACs, and 2 kWh per million of MACs."""

    def steps(models, setup):
        millions = {name: count_macs(model, BATCH[0]) / 1e6 for name, model in models.items()}
        return Steps(
            seconds={name: [1 + count] * setup.rounds for name, count in millions.items()},
            kwh={name: [2 * count] * setup.rounds for name, count in millions.items()},
            data_wait_share=dict.fromkeys(models, 0.0),
            startup_seconds=dict.fromkeys(models, 0.5),
            steps_per_epoch=8,
            method=None,
        )

    for module in ("measured_budget", "forecast"):
        monkeypatch.setattr(f"layerticket.study.{module}.measure_steps", steps)


def find(budget):
    return lambda costs: find_ticket(network(), BATCH, criterion="snip", budget=budget, costs=costs)


def test_block_costs_are_what_each_removal_saves(exact_clock):
    model = network()
    blocks = find_blocks(model, BATCH[0][:1])
    found = block_costs(model, blocks, SETUP)
    assert found.total == 1 + blocks.macs / 1e6
    for block in blocks:
        assert found.blocks[block.name] == pytest.approx(block.macs / 1e6)


def test_block_costs_of_energy_are_in_kwh(exact_clock):
    model = network()
    blocks = find_blocks(model, BATCH[0][:1])
    found = block_costs(model, blocks, METERED, energy=True)
    assert found.total == 2 * blocks.macs / 1e6
    for block in blocks:
        assert found.blocks[block.name] == pytest.approx(2 * block.macs / 1e6)


def test_block_costs_add_up_to_what_removing_all_saves(monkeypatch):
    """Each group of equal blocks saves 1 s alone, and all three save 6 s."""
    seconds = {"dense": [10.0], "bare": [4.0]} | {f"without {i}": [9.0] for i in range(3)}
    steps = SimpleNamespace(seconds=seconds, kwh=None)
    monkeypatch.setattr(measuring, "measure_steps", lambda models, _: steps)
    model = network()
    blocks = find_blocks(model, BATCH[0][:1])
    found = block_costs(model, blocks, SETUP).blocks
    stages = [sum(found[b.name] for b in blocks if b.stage == stage) for stage in range(3)]
    assert stages == pytest.approx([2.0, 2.0, 2.0])


def test_a_budget_of_energy_is_met_as_metered(exact_clock):
    model, budget = network(), Budget(save_energy=0.3)
    ticket, record = find_measured("resnet20", model, budget, find(budget), METERED)
    macs = [count_macs(one, BATCH[0]) for one in (ticket.apply(model), model)]
    assert record["asked"] == 0.3 <= record["saved"]["value"]
    assert record["saved"]["value"] == pytest.approx(1 - macs[0] / macs[1])


def test_a_budget_of_time_is_met_as_measured(exact_clock):
    model, budget = network(), Budget(save_time=0.2)
    ticket, record = find_measured("resnet20", model, budget, find(budget), SETUP)
    assert record["asked"] == 0.2 <= record["saved"]["value"]
    fewer = (len(ticket.removed) - 1) / len(ticket.removed) * record["saved"]["value"]
    assert fewer < 0.2


def test_what_the_clock_does_not_confirm_is_corrected_or_refused(exact_clock, monkeypatch):
    model, budget = network(), Budget(save_time=0.2)
    honest, _ = find_measured("resnet20", model, budget, find(budget), SETUP)
    true = measuring.block_costs

    def too_good(*args, **options):
        found = true(*args, **options)
        blocks = {name: 1.5 * cost for name, cost in found.blocks.items()}
        return type(found)(what=found.what, total=found.total, blocks=blocks)

    monkeypatch.setattr("layerticket.study.measured_budget.block_costs", too_good)
    corrected, _ = find_measured("resnet20", model, budget, find(budget), SETUP)
    assert corrected.removed == honest.removed
    greedy = Budget(save_time=0.99)
    with pytest.raises(LayerticketError, match="at most"):
        find_measured("resnet20", model, greedy, find(greedy), SETUP)


def test_a_budget_that_is_missed_is_answered_with_the_most_that_was_saved(exact_clock, monkeypatch):
    model, savings = network(), iter([0.1, 0.3, 0.2, 0.15])

    def measured(*args):
        saved = next(savings)
        return saved, False, {"asked": 0.5, "saved": {"value": saved}}

    def find(costs):
        costs(find_blocks(model, BATCH[0]))
        return SimpleNamespace(removed=("layer1.0",))

    monkeypatch.setattr(measuring, "_measure_ticket", measured)
    with pytest.raises(LayerticketError, match=r"removing 1 blocks reaches a saving of 30\.0%"):
        find_measured("resnet20", model, Budget(save_time=0.5), find, SETUP)


def test_memory_is_solved_from_exact_bytes_and_held_against_the_peak(monkeypatch):
    model = network()
    blocks = find_blocks(model, BATCH[0][:1])
    exact = memory_costs(model, blocks, SETUP, peak=lambda: 10**7)
    dense = 10**7

    def peak(name, removed, bench):
        return round(dense - sum(exact.blocks[block] for block in removed))

    monkeypatch.setattr("layerticket.study.measured_budget._peak", peak)
    # one block of the first stage: 2 convolutions keep their inputs, 2 norms theirs, and 2 ReLUs
    # share theirs with the next; 8 images of 16x8x8 in float32
    first = next(block for block in blocks if block.stage == 0)
    weights = 3 * 4 * first.params
    assert exact.blocks[first.name] - weights == pytest.approx(4 * 8 * 16 * 8 * 8 * 4, rel=0.01)
    adamw = replace(SETUP, recipe=replace(SETUP.recipe, optimizer="adamw", ema_decay=0.9))
    more = memory_costs(model, blocks, adamw, peak=lambda: 10**7).blocks[first.name]
    assert more - exact.blocks[first.name] == 2 * 4 * first.params  # five copies, not three
    limit = dense - round(2.5 * max(exact.blocks.values()))
    budget = Budget(max_memory=limit)
    ticket, record = find_measured("resnet20", model, budget, find(budget), SETUP)
    assert record["peak_bytes"] <= limit
    assert len(ticket.removed) >= 3


def test_energy_needs_a_statement():
    model = network()
    with pytest.raises(LayerticketError, match="--cpu-tdp"):
        block_costs(model, find_blocks(model, BATCH[0][:1]), SETUP, energy=True)


def test_real_steps_are_timed_and_leave_the_network_alone():
    model = network()
    before = [parameter.clone() for parameter in model.parameters()]
    steps = measure_steps({"dense": model, "again": model}, SETUP)
    assert all(len(t) == 3 and min(t) > 0 for t in steps.seconds.values())
    assert steps.kwh is None
    assert steps.steps_per_epoch == 8
    assert all(0 < share < 1 for share in steps.data_wait_share.values())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_metered_steps_share_the_energy_of_their_window(monkeypatch):
    class Meter:
        def lap(self):
            return Energy(cpu_kwh=6.0)

    class Lent:
        def __enter__(self):
            return Meter(), "fake"

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(measuring, "metered", lambda *_: Lent())
    monkeypatch.setattr(measuring, "math", SimpleNamespace(ceil=lambda _: 3))  # steps a window
    steps = measure_steps({"dense": network()}, SETUP)
    assert steps.kwh == {"dense": [2.0, 2.0, 2.0]}
    assert steps.method == "fake"


def test_a_forecast_multiplies_steps(exact_clock):
    dense = network()
    small = find_ticket(dense, BATCH, criterion="snip", budget=Budget(remove=3)).apply(dense)
    found = forecast({"dense": dense, "ticket": small}, replace(SETUP, rounds=6))
    macs = {
        name: count_macs(model, BATCH[0]) for name, model in (("dense", dense), ("ticket", small))
    }
    assert found["steps"] == 3 * 8
    for name, count in macs.items():
        assert found[name]["train_seconds"] == pytest.approx(24 * (1 + count / 1e6) + 0.5)
        assert found[name]["co2_kg"] is None
    rewound = forecast({"dense": dense, "ticket": small}, SETUP, start=1)
    assert rewound["dense"]["train_seconds"] == found["dense"]["train_seconds"]
    assert rewound["ticket"]["train_seconds"] == pytest.approx(
        16 * (1 + macs["ticket"] / 1e6) + 0.5
    )
    saving = found["saving"]
    assert saving["macs"] == 1 - macs["ticket"] / macs["dense"]
    assert saving["energy"] == pytest.approx(saving["macs"])
    assert saving["time"] == pytest.approx(
        1 - (1 + macs["ticket"] / 1e6) / (1 + macs["dense"] / 1e6)
    )
    assert 0 < saving["realized_share"] < 1
    assert statistics.fmean([saving["speedup"]["low"], saving["speedup"]["high"]]) > 1


def test_a_forecast_of_energy_includes_validation(exact_clock, monkeypatch):
    """Validation is taken to draw the power of a step."""
    monkeypatch.setattr(forecasting, "_validation_seconds", lambda *_: {"dense": 7.0})
    dense = network()
    millions = count_macs(dense, BATCH[0]) / 1e6
    found = forecast({"dense": dense}, METERED)["dense"]
    training, checking = 24 * (1 + millions) + 0.5, 3 * 7.0
    assert found["train_seconds"] == pytest.approx(training)
    assert found["validation_seconds"] == checking
    power = 2 * millions / (1 + millions)
    assert found["energy_kwh"] == pytest.approx(power * (training + checking))
    assert found["co2_kg"] == pytest.approx(0.5 * found["energy_kwh"])
