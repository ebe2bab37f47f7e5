"""What layerticket can do with the architectures of other libraries: one row each."""

from layerticket.study.architectures.examine import examine
from layerticket.study.architectures.specs import Spec, read_specs
from layerticket.study.architectures.survey import survey

__all__ = ["Spec", "examine", "read_specs", "survey"]
