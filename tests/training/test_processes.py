"""Two processes train as one does, remove the same blocks, and end together when one fails."""

import itertools
import json

import pytest
import torch

from layerticket.errors import LayerticketError, TrainingError
from layerticket.tensors import load_tensors
from layerticket.training.checkpoint import CHECKPOINT, METRICS
from layerticket.training.device import seed_epoch
from layerticket.training.distributed import (
    DistributedOptions,
    Processes,
    _explain_lost_process,
    processes,
    same_on_all_ranks,
    synchronized_batch_norms,
)
from toy_processes import CLIPPED, make_masked, make_plain, together, train
from toy_training import make_model

EXACT = 1e-5


@pytest.mark.parametrize(("said", "shown"), [("", "no message"), ("\nreset\nat 3", "reset")])
def test_a_lost_process_is_explained_whatever_the_message(said, shown):
    with pytest.raises(TrainingError, match=rf"its own message \({shown}"), _explain_lost_process():
        raise RuntimeError(said)


def metrics(folder):
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def assert_close(one, two, tolerance=EXACT):
    mine, theirs = (load_tensors(folder / CHECKPOINT)[0] for folder in (one, two))
    assert mine.keys() == theirs.keys()
    assert any(name.startswith("optimizer/") for name in mine)
    for name, tensor in mine.items():
        assert tensor.shape == theirs[name].shape
        assert torch.allclose(tensor, theirs[name], rtol=0, atol=tolerance), name
    for line, other in zip(metrics(one), metrics(two), strict=True):
        for key in ("epoch", "learning_rate"):
            assert line[key] == other[key]
        for key in ("train_loss", "validation_accuracy"):
            assert line[key] == pytest.approx(other[key], abs=tolerance)


def ended(ends, *codes):
    assert [code for code, _, _ in ends] == list(codes), ends
    return ends


# One pair of processes for all that two of them can do, since starting them takes longest.
TOGETHER = """
import sys
from pathlib import Path
import torch
from layerticket.tensors import tensor_digest
from layerticket.training.distributed import DistributedOptions, processes, same_on_all_ranks
from layerticket.training.checkpoint import Journal
from toy_processes import CLIPPED, make_masked, make_plain, train
from toy_training import make_model

Journal.every_seconds = 0.0
out = Path(sys.argv[1])
shard = DistributedOptions(shard=True)
with processes("cpu") as team:
    result, model = train(out / "ddp", snapshot_epochs=(0, 2))
    assert (result.processes, result.device) == (2, "cpu")
    print(same_on_all_ranks(model, trained=result.final_train_loss))
    calls = []
    def stop(model):
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        from toy_processes import loss_of
        return loss_of(model)
    try:
        train(out / "cut", validate=stop)
    except KeyboardInterrupt:
        pass
    assert len(calls) == (0 if team.rank else 2)
    # What to go on from is the checkpoint's, and it is read by process 0.
    _, again = train(out / "cut", make_plain(seed=9))
    assert tensor_digest(again.state_dict()) == tensor_digest(model.state_dict())
    result, whole = train(out / "shard", distributed=shard, snapshot_epochs=(2,))
    same_on_all_ranks(whole)
    assert all(type(p) is torch.nn.Parameter for p in whole.parameters())
    try:
        train(out / "cut2", distributed=shard, validate=stop)
    except KeyboardInterrupt:
        pass
    train(out / "cut2", make_plain(seed=9), distributed=shard)
    for name, options in (("adamw", DistributedOptions()), ("adamw-shard", shard)):
        train(out / name, recipe=CLIPPED, distributed=options)
    # Batch norms see their own images only, and all processes end with those of process 0.
    _, normed = train(out / "bn", make_model())
    same_on_all_ranks(normed)
    for name, options in (("masked", DistributedOptions()), ("masked-shard", shard)):
        _, net = train(out / name, make_masked(), distributed=options)
        zeros = make_masked()[0].weight_mask == 0
        assert zeros.any()
        assert (net[0].weight_orig[zeros] == 0).all()
    assert team.on_rank0(lambda: team.rank) == 0
    assert team.gather(team.rank) == [0, 1]
"""


def test_two_processes_train_as_one_does(tmp_path):
    ends = ended(together(TOGETHER, tmp_path), 0, 0)
    assert ends[0][1] == ends[1][1] != ""  # the same fingerprint
    train(tmp_path / "one", snapshot_epochs=(0, 2))
    for name in ("ddp", "cut", "shard", "cut2"):
        assert_close(tmp_path / "one", tmp_path / name)
    for name in ("ddp", "shard"):
        mine, theirs = (
            load_tensors(tmp_path / run / "epoch-0002.safetensors")[0] for run in ("one", name)
        )
        assert all(torch.allclose(mine[key], theirs[key], atol=EXACT) for key in mine)
    # Interrupted and gone on with: the same bits as uninterrupted, with two processes.
    for whole, cut in (("ddp", "cut"), ("shard", "cut2")):
        assert_close(tmp_path / whole, tmp_path / cut, tolerance=0)
    train(tmp_path / "masked1", make_masked())
    for name in ("masked", "masked-shard"):
        assert_close(tmp_path / "masked1", tmp_path / name)
    train(tmp_path / "adamw1", recipe=CLIPPED)
    for name in ("adamw", "adamw-shard"):
        assert_close(tmp_path / "adamw1", tmp_path / name)
    train(tmp_path / "bn1", make_model())
    bn, bn1 = (load_tensors(tmp_path / name / CHECKPOINT)[0] for name in ("bn", "bn1"))
    assert not torch.equal(bn["model/1.running_mean"], bn1["model/1.running_mean"])
    with pytest.raises(LayerticketError, match="its processes is 2, but 1 is given"):
        train(tmp_path / "ddp")


REFUSED = """
import sys
from pathlib import Path
from layerticket.errors import LayerticketError
from layerticket.training.distributed import DistributedOptions, processes, same_on_all_ranks
from layerticket.training.recipe import Recipe
from layerticket.training.trackers import Trackers
from toy_processes import RECIPE, make_plain, train
out = Path(sys.argv[1])
with processes("cpu") as team:
    for options in (
        {"model": make_plain(seed=team.rank)},
        {"seed": team.rank},
        {"snapshot_epochs": (team.rank,)},
        {"recipe": Recipe(epochs=3, batch_size=1, precision="fp32")},
        {"meter": object()},
        {"distributed": DistributedOptions(sync_batch_norm=True)},
    ):
        try:
            train(out / "never", **options)
        except LayerticketError as err:
            print(err)
    def fail():
        raise OSError("disk full")
    try:
        team.on_rank0(fail)
    except (OSError, RuntimeError) as err:
        print(type(err).__name__, err)
    net = make_plain()
    assert same_on_all_ranks(net) == same_on_all_ranks(make_plain())
"""


def test_disagreeing_processes_are_refused_on_all_of_them(tmp_path):
    ends = ended(together(REFUSED, tmp_path), 0, 0)
    said = [out.splitlines() for _, out, _ in ends]
    assert said[0][:-1] == said[1][:-1]
    assert "process 1 of 2 differs from process 0 in: weights. Every process must" in said[0][0]
    assert "in: settings." in said[0][1]
    assert "in: keep." in said[0][2]
    assert "a batch of 1 images cannot be divided over 2 processes" in said[0][3]
    assert "energy can be metered for one process" in said[0][4]
    assert "sync_batch_norm works on GPUs only" in said[0][5]
    assert said[0][6] == "OSError disk full"
    assert said[1][6] == "TrainingError disk full"
    assert len(said[0]) == 7
    assert not (tmp_path / "never").exists()


DIES = """
import os, sys
from pathlib import Path
from layerticket.training.checkpoint import Journal
from layerticket.training.distributed import processes
from toy_processes import make_plain, train
Journal.every_seconds = 0.0
rank = int(os.environ["RANK"])
class Dies(type(make_plain())):
    calls = 0
    def forward(self, images):
        Dies.calls += 1
        if rank == 1 and self.training and Dies.calls == 6:
            raise MemoryError("no memory left")
        return super().forward(images)
train(Path(sys.argv[1]), Dies(*make_plain()))
"""


def test_a_process_that_dies_in_an_epoch_ends_the_others(tmp_path):
    ends = together(DIES, tmp_path)
    assert all(code for code, _, _ in ends)
    assert "no memory left" in ends[1][2]
    assert load_tensors(tmp_path / CHECKPOINT)[1]["state"]["epoch"] == 1


def test_one_process_is_left_alone():
    with processes() as team:
        assert team == Processes()
        assert team.on_rank0(lambda: 3) == team.rank0_first(lambda: 3) == 3
        assert team.gather("x") == ["x"]
        team.agree({"a": "b"}, "")
        with team.enter_on_rank0(processes()):
            pass
    assert same_on_all_ranks(make_plain()) == same_on_all_ranks(make_plain())
    assert same_on_all_ranks(make_plain()) != same_on_all_ranks(make_plain(), ticket="a")
    assert same_on_all_ranks(make_plain()) != same_on_all_ranks(make_plain(seed=1))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "two"}, "it must be a number"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR, MASTER_PORT is not set"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1",
             "ACCELERATE_USE_FSDP": "true"},
            "Launch without it and add --shard",
        ),
    ],
)  # fmt: skip
def test_impossible_launches_are_refused(monkeypatch, environment, message):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LayerticketError, match=message), processes("cpu"):
        pass


def test_choices_that_would_do_nothing_are_refused(tmp_path):
    for options in (DistributedOptions(shard=True), DistributedOptions(sync_batch_norm=True)):
        with pytest.raises(LayerticketError, match="needs several processes"):
            train(tmp_path / "no", distributed=options)
    assert not (tmp_path / "no").exists()


def test_synchronized_batch_norms_share_all_tensors_and_leave():
    model = make_model()
    plain, tensors = model[1], dict(model.state_dict(keep_vars=True))
    with synchronized_batch_norms(model, wanted=True):
        assert type(model[1]) is torch.nn.SyncBatchNorm
        during = model.state_dict(keep_vars=True)
        assert all(during[name] is tensor for name, tensor in tensors.items())
    assert model[1] is plain
    assert all(model.state_dict(keep_vars=True)[name] is t for name, t in tensors.items())

    class Own(torch.nn.BatchNorm2d):
        pass

    model[1] = Own(8)
    with (
        pytest.raises(LayerticketError, match="is a Own"),
        synchronized_batch_norms(model, wanted=True),
    ):
        pass


def test_what_synchronized_batch_norms_learn_after_a_move_is_handed_over():
    model = make_model()
    plain = model[1]
    with synchronized_batch_norms(model, wanted=True):
        model.double().eval()  # new buffers, as on another device
        with torch.no_grad():
            model[1].running_mean.fill_(3)
            model[1].weight.fill_(2)
        during = {name: t.clone() for name, t in model.state_dict().items()}
    assert model[1] is plain
    assert not plain.training
    assert model.state_dict().keys() == during.keys()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == during[name].dtype
        assert torch.equal(tensor, during[name])


def test_parts_cover_a_batch():
    for count in (1, 2, 3, 5):
        parts = [Processes(rank=rank, count=count).part(17) for rank in range(count)]
        assert [parts[0][0], parts[-1][1]] == [0, 17]
        assert all(one[1] == two[0] for one, two in itertools.pairwise(parts))


def test_dropout_of_an_epoch_follows_from_seed_epoch_and_process():
    def drawn(*place):
        seed_epoch(*place[:2], torch.device("cpu"), *place[2:])
        return tuple(torch.rand(3).tolist())

    places = [(5, 1), (6, 1), (5, 2), (5, 1, 1), (5, 1, 2)]
    found = {place: drawn(*place) for place in places}
    assert len(set(found.values())) == len(places)
    assert found == {place: drawn(*place) for place in places}
    assert found[5, 1] == drawn(5, 1, 0)  # process 0 draws as one that trains alone
