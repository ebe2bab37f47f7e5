"""A progress bar on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def progress_bar(total: float, *, shown: bool = True) -> Iterator[Callable[[float, str], None]]:
    """Open a progress bar with the time left, on stderr.

    Args:
        total: Total amount of work, in any unit.
        shown: Whether to show the bar.

    Yields:
        A function of the amount done so far and a short text, such as ``epoch 3/200``.
    """
    if not shown:
        yield lambda done, text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total)
        yield lambda done, text: progress.update(task, completed=done, description=text)


PATIENCE = 3.0
"""Seconds after which a bar appears."""


@contextmanager
def told(what: str) -> Iterator[Callable[[float, str], None]]:
    """Open a bar for work that may be short: it appears after `PATIENCE`, on a terminal only.

    Args:
        what: What is done, in a few words.

    Yields:
        A function of the share that is done, 0 to 1, and what is worked on.
    """
    began, draw = time.monotonic(), None
    with ExitStack() as stack:

        def tell(share: float, on: str) -> None:
            nonlocal draw
            if draw is None and sys.stderr.isatty() and time.monotonic() - began > PATIENCE:
                draw = stack.enter_context(progress_bar(1.0))
            if draw is not None:
                draw(share, f"{what}: {on}")

        yield tell
