"""Copy the small records of a study, without weights and logs, so that they can be committed.

``python studies/keep_records.py STUDY studies/records/NAME`` saves them. With the two folders
exchanged it restores them, and ``layerticket study run FILE --out STUDY`` resumes the study: jobs
with a record are skipped. Absolute paths become relative to the study.
"""

import re
import sys
from pathlib import Path

KEPT = (
    "searches/*/record.json",
    "searches/*/ticket.json",
    "searches/*/bill.json",
    "trainings/*/run.json",
    "trainings/*/result.json",
    "trainings/*/metrics.jsonl",
    "trainings/*/removed.json",
    "trainings/*/evaluation.json",
    "trainings/*/pairs.json",
    "rows/*.json",
    "jobs/*/record.json",
    "precision.json",
)


def main(study: Path, records: Path) -> None:
    """Copy the records of finished work from one folder to the other."""
    count = 0
    for path in sorted(file for pattern in KEPT for file in study.glob(pattern)):
        part = path.relative_to(study)
        if part.parts[0] == "trainings" and not (path.parent / "result.json").exists():
            continue  # not finished
        target = records / part
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(portable(path, study), "utf-8")
        count += 1
    print(f"{count} records in {records}")


def portable(path: Path, study: Path) -> str:
    """Return the text of a file of a study without paths of this machine."""
    root = str(study.resolve())
    text = path.read_text(encoding="utf-8").replace(f"{root}/", "").replace(root, study.name)
    return re.sub(r"--(data|shift)-dir [^ \"]+", r"--\1-dir DIR", text)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
