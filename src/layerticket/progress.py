"""What long work tells the person who waits: one bar on stderr."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: float, *, shown: bool = True) -> Iterator[Callable[[float, str], None]]:
    """Open a progress bar with the time that is left; nothing is drawn on stdout, ever.

    Args:
        total: How much there is to do, in any unit.
        shown: Whether anything is drawn.

    Yields:
        A function of how much is done so far and a short text, such as ``epoch 3/200``.
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
