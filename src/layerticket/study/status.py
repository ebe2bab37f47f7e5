"""Looks at the folder of a study: how it stands, what it has come to."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from layerticket.errors import LayerticketError
from layerticket.files import read_json
from layerticket.study.jobs.folder import StudyFolder
from layerticket.study.store.collecting import STUDY
from layerticket.study.store.standing import standing_of

__all__ = ["load_study", "study_status"]


def load_study(folder: Path) -> dict[str, Any]:
    """Read ``study.json``: everything a report needs.

    Args:
        folder: Folder of the study.

    Raises:
        LayerticketError: If there is no study.
    """
    return read_json(_existing(folder, STUDY))


def study_status(folder: Path) -> dict[str, Any]:
    """Tell how a study stands, also while another process is at it.

    Args:
        folder: Folder of the study.

    Returns:
        What `layerticket study status --json` prints.

    Raises:
        LayerticketError: If there is no study.
    """
    place = StudyFolder(_existing(folder, "plan.json").parent)
    plan = place.read_plan()
    running = sum(place.is_running(name) for name in plan.jobs)
    return {"study": str(folder), **asdict(standing_of(place, plan, workers=max(1, running)))}


def _existing(folder: Path, name: str) -> Path:
    """Return a file of a study."""
    path = Path(folder) / name
    if not path.exists():
        raise LayerticketError(
            f"{folder} holds no study ({name} is missing). Run one: layerticket study run quick "
            f"--out {folder}"
        )
    return path
