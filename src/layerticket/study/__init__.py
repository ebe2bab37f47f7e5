"""A run as a value, and the verdict over paired runs."""

from layerticket.study.conditions import Conditions
from layerticket.study.evaluate import evaluate_run
from layerticket.study.evaluations import EVALUATIONS
from layerticket.study.find import find_in, find_in_run
from layerticket.study.foresee import foresee_run
from layerticket.study.measuring import Bench
from layerticket.study.paired import Comparison, compare_paired
from layerticket.study.run import RunConfig, execute, find_result, load_result
from layerticket.study.steps import run_folder, train_run
from layerticket.study.verdict import Verdict, sentence, verdict

__all__ = [
    "EVALUATIONS",
    "Bench",
    "Comparison",
    "Conditions",
    "RunConfig",
    "Verdict",
    "compare_paired",
    "evaluate_run",
    "execute",
    "find_in",
    "find_in_run",
    "find_result",
    "foresee_run",
    "load_result",
    "run_folder",
    "sentence",
    "train_run",
    "verdict",
]
