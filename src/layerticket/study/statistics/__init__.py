"""What paired seeds prove, and what they do not. Knows numbers only."""

from layerticket.study.statistics.analysis import analyse, up_to_date
from layerticket.study.statistics.verdict import Verdict, sentence, verdict

__all__ = ["Verdict", "analyse", "sentence", "up_to_date", "verdict"]
