"""Records with a right checksum and wrong content: each is refused with its file and field."""

import json
import shutil

import pytest
import torch

import layerticket as lt
from layerticket.errors import LayerticketError
from layerticket.files import digest, read_json, write_json
from layerticket.study.evaluate import _known, pair_figures
from layerticket.study.folder import StudyFolder
from layerticket.study.plan import Plan, unfold
from layerticket.study.record import Bill, Removal, Result, read_config
from layerticket.study.toml import study_of
from layerticket.tensors import load_tensors, save_tensors
from layerticket.training.checkpoint import Journal, Snapshot, State
from toy_lottery import small_resnet

WRONG = [None, "x", -1, 1.5, 1e30, True, [], [None], {}, {"a": None}, "\ud800", "../../etc", "/etc"]
BATCH = (torch.randn(20, 1, 8, 8), torch.arange(20) % 10)


def mutations(record):
    """Every key gone, every key with each wrong value, and a key that is not known."""
    yield "unknown", record | {"unknown": 1}
    for key in record:
        yield key, {k: v for k, v in record.items() if k != key}
        for value in WRONG:
            if value != record[key] or type(value) is not type(record[key]):
                yield key, record | {key: value}
    for key, inside in record.items():
        if isinstance(inside, dict) and inside:
            for name, changed in mutations(inside):
                yield f"{key}.{name}", record | {key: changed}
        elif isinstance(inside, list) and inside and isinstance(inside[0], dict):
            for name, changed in mutations(inside[0]):
                yield f"{key}.{name}", record | {key: [changed, *inside[1:]]}


def refused(read, record):
    """Names of what was refused; anything but a refusal or an answer fails."""
    found = set()
    for name, changed in mutations(record):
        try:
            read(changed)
        except LayerticketError:
            found.add(name)
        except Exception as err:
            raise AssertionError(f"{name}: {type(err).__name__}: {err}") from err
    return found


@pytest.fixture(scope="module")
def ticket(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ticket")
    found = lt.find_ticket(
        small_resnet(), BATCH, criterion="snip", budget=lt.Budget(remove=2), noise=True, seed=0
    )
    return found.save(folder / "t")


def test_tickets(ticket, tmp_path):
    """A ticket that is taken can be applied, or says why not."""
    folder = tmp_path / "t"
    shutil.copytree(ticket, folder)
    path = folder / "ticket.json"
    model = small_resnet()

    def read(record):
        signed = {k: v for k, v in record.items() if k != "checksum"}
        try:
            signed["checksum"] = digest(signed)
        except LayerticketError:  # half a letter has no bytes to be signed
            signed["checksum"] = "0" * 64
        path.write_text(json.dumps(signed))
        lt.Ticket.load(folder).apply(model)

    record = read_json(path)
    found = refused(read, record)
    free = {"checksum", "options", "versions", "match", "cuts", "score_seconds", "examples"}
    free |= {"batch", "seed", "model", "criterion", "later_scores", "sparse_macs"}
    assert {*record} - free <= found
    for name, value, said in (
        ("seed", "x", r"ticket.json: seed is 'x'; it must be a whole number"),
        ("weights", 1e30, r"ticket.json: weights is 1e\+30; it must be a text"),
        ("removed", None, r"ticket.json: removed is None; it must be a list"),
        ("removed", ["nowhere"], r"ticket.json: removed contradicts"),
        ("macs", {"dense": 1}, r"ticket.json: macs contradicts"),
    ):
        with pytest.raises(LayerticketError, match=said):
            read(record | {name: value})
    with pytest.raises(LayerticketError, match=r"ticket.json: key 'kept' is missing|contradicts"):
        read({k: v for k, v in record.items() if k != "kept"})
    with pytest.raises(
        LayerticketError, match=r"blocks\[0\]: position is -1; it must be at least 0"
    ):
        read(record | {"blocks": [record["blocks"][0] | {"position": -1}, *record["blocks"][1:]]})


RESULT = {
    "test_accuracy": 0.5, "validation_accuracy": None, "correct": "ff", "epochs": 1,
    "train_seconds": 1.0, "images_per_second": 5.0, "energy_kwh": None, "co2_kg": None,
    "energy": {"cpu_kwh": 0.1}, "energy_method": None, "peak_memory_bytes": 5, "params": 3,
    "precision": "fp32", "device": "cpu", "data_wait_share": 0.1, "processes": 1,
    "weights": "a" * 64, "snapshots": {"1": "b" * 64}, "environment": {}, "workers": None,
    "jobs_beside": None, "figures": None, "parameters_unchanged": None,
}  # fmt: skip


def test_results_of_trainings(tmp_path):
    def read(record):
        (tmp_path / "result.json").write_text(json.dumps(record))
        Result.load(tmp_path)

    read(RESULT)
    assert refused(read, RESULT) >= {*RESULT}
    with pytest.raises(LayerticketError, match=r"result.json: test_accuracy is 1.5; it must be at"):
        read(RESULT | {"test_accuracy": 1.5})


def test_bills(tmp_path):
    cost = {"train_seconds": 1.0, "search_seconds": None, "energy_kwh": 0.0, "co2_kg": None}

    def read(record):
        (tmp_path / "bill.json").write_text(json.dumps(record))
        assert Bill.of_ticket(tmp_path).total is not None

    assert refused(read, {"a": cost}) >= {"a", "a.train_seconds", "a.unknown"}


def test_what_a_training_is(tmp_path):
    config = {
        "model": "resnet20", "data": "digits", "data_fingerprint": "a", "validation_fraction": 0.1,
        "removed": None, "start": {"drawn": {"seed": 0}}, "start_epoch": 0, "recipe": {},
        "seed": 0, "initialization_seed": None, "ticket": None,
    }  # fmt: skip

    def read(record):
        (tmp_path / "run.json").write_text(json.dumps({"config": record}))
        return read_config(tmp_path)

    assert read(config) == config
    assert refused(read, config) >= {*config}


def test_what_was_removed(ticket, tmp_path):
    Removal.of(lt.Ticket.load(ticket)).save(tmp_path)
    record = read_json(tmp_path / "removed.json")

    def read(changed):
        (tmp_path / "removed.json").write_text(json.dumps(changed))
        Removal.load(tmp_path)

    read(record)
    assert refused(read, record) >= {*record, "blocks.position", "blocks.call"}


STUDY = study_of({"title": "t", "models": ["resnet20"], "seeds": 2, "evaluate": ["test"],
                  "methods": [{"method": "ticket"}]})  # fmt: skip


def test_plans(tmp_path):
    plan = unfold(STUDY, {"fingerprint": "a"})
    record = plan.as_record()

    def read(changed):
        (tmp_path / "plan.json").write_text(json.dumps(changed))
        return StudyFolder(tmp_path).read_plan()

    assert read(record) == plan
    assert refused(read, record) >= {*record, "jobs.name", "jobs.kind", "rows.jobs", "rows.seed"}
    for name in ("../../etc", "/etc/passwd", ".hidden", "a/b"):
        with pytest.raises(LayerticketError, match=r"plan.json: jobs: name is"):
            read(record | {"jobs": [record["jobs"][0] | {"name": name}]})
    with pytest.raises(LayerticketError, match="is not a job of the plan"):
        read(record | {"jobs": []})
    assert Plan.from_record(record) == plan


def test_records_of_jobs(tmp_path):
    folder = StudyFolder(tmp_path)
    records = {
        "train-a": {"training": "t", "search": None, "inputs": {"t": {"end": "a" * 64}}},
        "evaluate-a": {"training": "t", "results": {"test": {}}, "similarity": None, "inputs": {}},
        "search-a": {"found": "x", "ticket": "searches/a", "runs": ["trainings/b"], "epochs": 3},
    }
    for name, record in records.items():

        def read(changed, name=name):
            path = folder.record_path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(changed))
            folder.record(name)
            folder.is_done(name)

        read(record)
        found = refused(read, record)
        assert found >= {"training", "inputs"} & {*record}
        if "ticket" in record:
            assert found >= {"ticket", "runs", "epochs"}
            for path in ("/etc", "../other", "searches/../../other", "a//b"):
                with pytest.raises(LayerticketError, match=r"record.json: ticket is .*Delete the"):
                    read(record | {"ticket": path})
    write_json(tmp_path / "jobs" / "a" / "beside.json", {"jobs_beside": "two"})
    with pytest.raises(LayerticketError, match=r"beside.json: jobs_beside is 'two'"):
        folder.jobs_beside("a")
    write_json(tmp_path / "jobs" / "a" / "training.json", {"training": "../x", "epochs": 1})
    with pytest.raises(LayerticketError, match=r"training.json: training is '../x'"):
        folder.begun("a")


def test_checkpoints(tmp_path):
    journal = Journal(tmp_path, {"seed": 0})
    snapshot = Snapshot(epoch=1, weights={"a": torch.ones(2)})
    journal.record(State(epoch=1), snapshot, final=True)
    path = tmp_path / "checkpoint.safetensors"
    tensors, facts = load_tensors(path)

    def read(changed):
        save_tensors(path, tensors, facts | {"state": changed})
        journal.restore()

    read(facts["state"])
    assert refused(read, facts["state"]) >= {"epoch", "train_seconds", "images", "energy"}
    for wrong in ({}, {"state": None}, facts | {"epoch": "1"}, facts | {"identity": []}):
        save_tensors(path, tensors, wrong)
        with pytest.raises(LayerticketError, match="checkpoint"):
            journal.restore()


def test_figures_of_networks(tmp_path):
    result = Result(**RESULT)
    settings = {"settings": {"title": "t"}}
    write_json(tmp_path / "evaluation.json", {"weights": "a" * 64, "results": {"test": settings}})
    assert _known(tmp_path, result) == {"test": settings}
    for wrong in (None, [], {"test": None}, {"test": {}}):
        write_json(tmp_path / "evaluation.json", {"weights": "a" * 64, "results": wrong})
        with pytest.raises(LayerticketError, match=r"evaluation.json: results"):
            _known(tmp_path, result)
    write_json(tmp_path / "result.json", RESULT)
    for wrong in ({"timing": None}, {"timing": {"d": {}}}, {"timing": {"d": []}}):
        write_json(tmp_path / "pairs.json", wrong)
        with pytest.raises(LayerticketError, match=r"pairs.json"):
            pair_figures("timing", tmp_path, tmp_path, lambda *_: {})


def test_json_that_is_none(tmp_path):
    path = tmp_path / "a.json"
    for text in ('{"a": NaN}', '{"a": -Infinity}', '{"a": "\\ud800"}', '{"a": ' + "9" * 5000 + "}",
                 '{"a":' * 100_000, "\x00", "[1]"):  # fmt: skip
        path.write_text(text)
        with pytest.raises(LayerticketError, match=r"a.json"):
            read_json(path)
