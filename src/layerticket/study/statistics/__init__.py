"""What paired seeds prove, and what they do not. Knows numbers only."""

from layerticket.study.statistics.analysis import analyse
from layerticket.study.statistics.verdict import Verdict, sentence, verdict

__all__ = ["Verdict", "analyse", "sentence", "verdict"]
