"""Energy so far: shared work is paid once, and what was not metered is not known."""

import pytest

from layerticket.study.folder import StudyFolder
from layerticket.study.plan import unfold
from layerticket.study.status import paid_so_far, standing_of
from layerticket.study.toml import study_of
from toy_study import study_table

METHODS = [
    {"method": "ticket", "criterion": "snip"},
    {"method": "lottery", "criterion": "hrank", "rewind": "25%"},
    {"method": "lottery", "criterion": "hrank", "rewind": "50%"},
    {"method": "equal_compute"},
]
DENSE, SEARCH, TICKET = 8.0, 0.5, 4.0


@pytest.fixture
def plan():
    return unfold(study_of(study_table(methods=METHODS, recipe={"epochs": 4})), "f" * 64)


def finish(folder, plan, *, metered=True):
    """Leave the bills as searches and trainings do: each with all that came before."""
    for name, job in plan.jobs.items():
        if job.kind == "search" and job.spec["method"] == "equal_compute":
            folder.finish(name, {"epochs": 5})
        elif job.kind == "search":
            spent = SEARCH + (DENSE if "dense" in job.needs else 0)
            folder.finish(
                name,
                {
                    "ticket": "t",
                    "search_energy_kwh": spent if metered else None,
                    "search_co2_kg": 2 * spent if metered else None,
                },
            )
        elif job.kind == "train":
            search = folder.record_of(job.needs["search"]) if job.needs else None
            found = search is not None and "ticket" in search
            own = TICKET if found else DENSE
            spent = own + (search["search_energy_kwh"] or 0 if found else 0)
            figures = {"epochs": 4, "train_seconds": 1.0, "run": "runs/r"}
            figures |= {"energy_kwh": spent if metered else None}
            folder.finish(name, figures | {"co2_kg": 2 * spent if metered else None})


def test_every_job_is_paid_once(tmp_path, plan):
    folder = StudyFolder(tmp_path)
    assert paid_so_far(folder, plan, "energy_kwh") is None  # nothing has ended
    finish(folder, plan)
    total = 2 * DENSE + 3 * (SEARCH + TICKET)  # the last is dense again, for equal compute
    assert paid_so_far(folder, plan, "energy_kwh") == pytest.approx(total)
    standing = standing_of(folder, plan)
    assert standing.energy_kwh == pytest.approx(total)
    assert standing.co2_kg == pytest.approx(2 * total)


def test_what_is_not_metered_is_not_known(tmp_path, plan):
    finish(StudyFolder(tmp_path), plan, metered=False)
    assert paid_so_far(StudyFolder(tmp_path), plan, "energy_kwh") is None
