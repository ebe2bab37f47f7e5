"""Import what all jobs need: the fork server does it once, and jobs are forked from it."""

import contextlib
import gc
import importlib

from layerticket.study.running.executors import PRELOADED

gc.disable()  # a fifth of the time of these imports; jobs enable it
for name in PRELOADED:
    with contextlib.suppress(ImportError):  # a job tells what is missing
        importlib.import_module(name)
