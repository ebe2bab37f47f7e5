"""Many runs as values, and the verdict over paired runs."""

from layerticket.study.evaluating.conditions import Conditions
from layerticket.study.evaluating.evaluate import evaluate_run
from layerticket.study.evaluating.evaluations import EVALUATIONS
from layerticket.study.evaluating.similarity import similarity_of
from layerticket.study.executors.crew import Crew
from layerticket.study.files.reading import read_study, study_of, study_text
from layerticket.study.files.study import StudyFile
from layerticket.study.running import run_study
from layerticket.study.runs.run import RunConfig, execute, find_result, load_result
from layerticket.study.runs.train import run_folder, train_run
from layerticket.study.search.find import find_in, find_in_run
from layerticket.study.search.foresee import foresee_run
from layerticket.study.search.imp import find_imp
from layerticket.study.search.measuring import Bench
from layerticket.study.search.rivals import find_control, find_filters, find_weights
from layerticket.study.statistics.verdict import Verdict, sentence, verdict
from layerticket.study.status import load_study, study_status
from layerticket.study.store.standing import Standing
from layerticket.study.tables.paired import Comparison, compare_paired

__all__ = [
    "EVALUATIONS",
    "Bench",
    "Comparison",
    "Conditions",
    "Crew",
    "RunConfig",
    "Standing",
    "StudyFile",
    "Verdict",
    "compare_paired",
    "evaluate_run",
    "execute",
    "find_control",
    "find_filters",
    "find_imp",
    "find_in",
    "find_in_run",
    "find_result",
    "find_weights",
    "foresee_run",
    "load_result",
    "load_study",
    "read_study",
    "run_folder",
    "run_study",
    "sentence",
    "similarity_of",
    "study_of",
    "study_status",
    "study_text",
    "train_run",
    "verdict",
]
