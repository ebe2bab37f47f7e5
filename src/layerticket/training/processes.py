"""Several processes that train one network: which one this is, what they tell each other.

Enters: values of one process. Leaves: the same values on all, or a refusal on all. Where there is
one process, the work is just called. Refuses to know networks, and how processes are started.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from layerticket.errors import ECHO, LayerticketError
from layerticket.training.failure import TrainingError

__all__ = ["ALONE", "Processes"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """The processes of one training, seen from one of them."""

    rank: int = 0
    """Number of this process, from 0; process 0 writes the files."""
    count: int = 1
    """How many there are."""
    local_rank: int = 0
    """Number of this process on its machine; decides its GPU."""
    group: Any = None
    """Where messages go; None for one process."""

    def first(self, work: Callable[[], T]) -> T:
        """Let process 0 work, and hand what it returns to all.

        Args:
            work: Called on process 0 only; holds no collective operation. What it returns is
                pickled for the other processes.

        Raises:
            Exception: What the work raised, on every process: refusals as LayerticketError, all
                else as TrainingError, on process 0 as it was.
        """
        if self.count == 1:
            return work()
        if self.rank:
            fate, value = self._from_first(None)
            if fate == "done":
                return value  # type: ignore[no-any-return]  # came over the wire
            raise _echo(fate, value)
        try:
            result = work()
        except BaseException as err:
            self._from_first((_fate(err), " ".join(str(err).split()) or type(err).__name__))
            raise
        self._from_first(("done", result))
        return result

    def in_turn(self, work: Callable[[], T]) -> T:
        """Let process 0 work first and then the others, each for itself: downloads, caches."""
        if self.rank:
            self.first(lambda: None)
            return work()
        results: list[T] = []
        self.first(lambda: results.append(work()))
        return results[0]

    @contextmanager
    def holding(self, resource: AbstractContextManager[Any]) -> Iterator[None]:
        """Enter a context on process 0 only; where that is refused, all hear of it."""
        with ExitStack() as stack:
            self.first(lambda: (stack.enter_context(resource), None)[1])
            yield

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in the order of their numbers."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with _heard():
            distributed.all_gather_object(values, value, group=self.group)
        return values

    def agree(self, parts: Mapping[str, str], remedy: str) -> None:
        """Refuse, on every process alike, parts that are not the same everywhere.

        Args:
            parts: Digests by what they are of.
            remedy: What to do about a difference.

        Raises:
            LayerticketError: If a process has other parts than process 0; it names both.
        """
        found = self.gather(dict(parts))
        odd = [rank for rank, theirs in enumerate(found) if theirs != found[0]]
        if odd:
            names = sorted({n for r in odd for n, v in found[r].items() if v != found[0].get(n)})
            one = len(odd) == 1
            err = LayerticketError(
                f"process{'' if one else 'es'} {', '.join(map(str, odd))} of {self.count} "
                f"{'differs' if one else 'differ'} from process 0 in: {', '.join(names)}. {remedy}"
            )
            raise self.echoed(err)

    def share(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of process 0 on the CPU, whatever the others hold."""
        if self.count == 1:
            return dict(tensors)
        plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        shapes = {name: (tuple(t.shape), t.dtype) for name, t in plain.items()}
        shapes = self.first(lambda: shapes)
        shared = {}
        with _heard():
            for name, (shape, dtype) in shapes.items():
                shared[name] = plain[name] if not self.rank else torch.empty(shape, dtype=dtype)
                distributed.broadcast(shared[name], src=0, group=self.group)
        return shared

    def echoed(self, err: Exception) -> Exception:
        """Mark an exception that every process raises, so that it is printed once."""
        if self.rank:
            err.add_note(ECHO)
        return err

    def part(self, size: int) -> tuple[int, int]:
        """Where this process's part of a batch begins and ends; parts differ by one at most.

        Example:
            >>> [Processes(rank=rank, count=3).part(8) for rank in range(3)]
            [(0, 2), (2, 5), (5, 8)]
        """
        return size * self.rank // self.count, size * (self.rank + 1) // self.count

    def _from_first(self, value: Any) -> Any:  # noqa: ANN401 - any value travels
        """Broadcast a value of process 0."""
        box = [value]
        with _heard():
            distributed.broadcast_object_list(box, src=0, group=self.group)
        return box[0]


ALONE = Processes()
"""One process that trains for itself."""


def _fate(err: BaseException) -> str:
    if isinstance(err, LayerticketError):
        return "refused"
    return "failed" if isinstance(err, Exception) else "interrupted"


def _echo(fate: str, text: str) -> BaseException:
    """Build the exception that tells another process's failure."""
    kinds = {"refused": LayerticketError, "interrupted": KeyboardInterrupt}
    err = kinds.get(fate, TrainingError)(text)
    err.add_note(ECHO)
    return err


@contextmanager
def _heard() -> Iterator[None]:
    """Say in plain words that another process is gone."""
    try:
        yield
    except RuntimeError as err:
        raise TrainingError(
            "another process of this training ended or cannot be reached; its own message says "
            f"why ({str(err).splitlines()[0]}). Start all processes again: the run resumes."
        ) from err
