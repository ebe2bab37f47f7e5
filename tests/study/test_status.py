"""Status: every training and search counts once, and a look costs no more than linear in rows."""

import os
from collections import Counter

import pytest

from layerticket.files import write_json
from layerticket.study.folder import StudyFolder
from layerticket.study.plan import unfold
from layerticket.study.record import Bill, Cost
from layerticket.study.status import status_of, study_status
from layerticket.study.toml import study_of, study_text
from toy_study import study_table

METHODS = [
    {"method": "ticket", "criterion": "snip"},
    {"method": "ticket", "criterion": "snip", "label": "the same"},
    {"method": "lottery", "criterion": "hrank", "rewind": "25%"},
    {"method": "lottery", "criterion": "hrank", "rewind": "50%"},
    {"method": "equal_compute"},
]
DENSE, SEARCH, TICKET = 8.0, 0.5, 4.0


def plan_of(**changes):
    table = {"methods": METHODS, "recipe": {"epochs": 4}, **changes}
    return unfold(study_of(study_table(**table)), {"fingerprint": "f" * 64})


def end(folder, name, kwh):
    """Leave the record of a finished training."""
    record = {"epochs": 4, "train_seconds": 1.0, "weights": "f" * 64, "snapshots": {}}
    write_json(
        folder.training(name) / "result.json",
        record | {"energy_kwh": kwh, "co2_kg": None if kwh is None else 2 * kwh},
    )


def finish(folder, plan, *, metered=True):
    """Leave the records of all searches and trainings, each with its own cost."""
    spent = SEARCH if metered else None
    for name, job in plan.jobs.items():
        if job.kind == "search" and "equal_compute" in name:
            folder.finish(name, {"epochs": 5})
        elif job.kind == "search":
            record = {"ticket": "t", "search_seconds": 1.0, "search_energy_kwh": spent}
            folder.finish(name, record | {"search_co2_kg": None if spent is None else 2 * spent})
            own = Cost(search_seconds=1.0, energy_kwh=spent, co2_kg=2 * spent if metered else None)
            write_json(folder.search(name) / "bill.json", Bill(items={name: own}).as_record())
        elif job.kind == "train":
            # The two methods that are the same come to one training.
            training = "shared" if job.method in ("snip", "the same") else name
            dense = job.method.startswith("dense")
            kwh = DENSE if dense else TICKET
            end(folder, training, kwh if metered else None)
            folder.finish(name, {"training": training, "search": job.needs.get("search")})
        else:
            folder.finish(name, {})


def test_everything_is_paid_once(tmp_path):
    folder, plan = StudyFolder(tmp_path), plan_of()
    assert status_of(folder, plan).energy_kwh is None  # nothing has ended
    finish(folder, plan)
    # Dense, and dense again for equal compute; one ticket that two rows share, two of the lottery.
    total = 2 * DENSE + 3 * (SEARCH + TICKET)
    status = status_of(folder, plan)
    assert status.energy_kwh == pytest.approx(total)
    assert status.co2_kg == pytest.approx(2 * total)
    assert (status.total, status.done) == (6, 6)
    assert status.epochs == status.epochs_done == 5 * 4  # five trainings for six rows
    assert status.train_seconds == 5.0


def test_what_is_not_metered_is_not_known(tmp_path):
    folder, plan = StudyFolder(tmp_path), plan_of()
    finish(folder, plan, metered=False)
    assert status_of(folder, plan).energy_kwh is None


def test_the_number_of_trainings_is_an_upper_bound_until_searches_are_done(tmp_path):
    status = status_of(StudyFolder(tmp_path), plan_of())
    assert (status.total, status.waiting) == (6, 6)
    assert status.epochs == 6 * 4
    assert status.seconds_left is None


def test_trainings_that_run_at_once_share_the_time_that_is_left(tmp_path):
    plan, folder = plan_of(methods=METHODS[:1], seeds=2), StudyFolder(tmp_path)
    done = next(job for job in plan.jobs.values() if job.kind == "train")
    end(folder, done.name, None)
    folder.finish(done.name, {"training": done.name})
    # One of four trainings has ended, after 4 epochs in 1 s; the others take 1 s each.
    for workers, seconds in ((1, 3.0), (2, 1.5), (3, 1.0), (8, 1.0)):
        assert status_of(folder, plan, workers=workers).seconds_left == pytest.approx(seconds)


def test_a_training_that_was_replaced_is_to_be_used_again(tmp_path):
    folder, plan = StudyFolder(tmp_path), plan_of()
    finish(folder, plan)
    lottery = next(name for name in plan.jobs if name.startswith("search-lottery"))
    dense = next(job.name for job in plan.jobs.values() if job.method == "dense" and job.row)
    record = folder.record(lottery)
    folder.finish(lottery, record | {"inputs": {dense: {"end": "f" * 64}}})
    assert folder.is_done(lottery)
    folder.finish(lottery, record | {"inputs": {dense: {"end": "e" * 64}}})
    assert not folder.is_done(lottery)
    folder.finish(lottery, record | {"inputs": {dense: {"1": "d" * 64}}})
    assert not folder.is_done(lottery)


def looks(tmp_path, monkeypatch, seeds):
    """Count the files that one status opens or looks up."""
    study = study_of(study_table(methods=METHODS, recipe={"epochs": 4}, seeds=seeds))
    plan = unfold(study, {"fingerprint": "f" * 64})
    folder = StudyFolder(tmp_path / str(seeds))
    folder.write_plan(plan, study_text(study))
    finish(folder, plan)
    count = []
    for name in ("stat", "open", "scandir", "listdir"):
        real = getattr(os, name)

        def counted(*args, real=real, **more):
            count.append(str(args[0]) if args else ".")
            return real(*args, **more)

        monkeypatch.setattr(os, name, counted)
    study_status(folder.root)
    monkeypatch.undo()
    assert len(plan.rows) == 6 * seeds
    return len(count), Counter(count).most_common(1)[0][1]


def test_a_look_is_linear_in_rows(tmp_path, monkeypatch):
    few, most_of_few = looks(tmp_path, monkeypatch, 4)
    many, most_of_many = looks(tmp_path, monkeypatch, 8)
    assert few > 0
    assert many <= 2.1 * few
    assert most_of_many <= most_of_few


def test_a_file_that_was_replaced_is_read_again_however_coarse_its_time(tmp_path):
    folder, path = StudyFolder(tmp_path), tmp_path / "record.json"
    write_json(path, {"done": 1})
    before = path.stat()
    assert folder.read(path) == {"done": 1}
    write_json(path, {"done": 2})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert folder.read(path) == {"done": 2}
