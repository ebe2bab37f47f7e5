"""Import what all jobs need: the fork server does it once, and jobs are forked from it."""

import gc
import importlib

MODULES = (
    "layerticket.study.job",
    "layerticket.criteria.grasp",
    "torch._dynamo",  # torch imports it, and 800 other modules, in an optimizer's first step
    "filelock",
)
gc.disable()  # while so much is imported, garbage collections take a fifth of the time
try:
    for name in MODULES:
        importlib.import_module(name)
finally:
    gc.freeze()  # modules are never garbage
    gc.enable()
