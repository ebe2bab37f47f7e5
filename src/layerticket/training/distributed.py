"""How one training is spread over several processes; changes how it is computed, not what of."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from layerticket.errors import ECHO, LayerticketError, TrainingError
from layerticket.files import digest
from layerticket.ticket.ticket import architecture_digest, weights_digest
from layerticket.training.checkpoint import fill_optimizer, optimizer_state

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


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def shard(shell: nn.Module, device: torch.device, count: int) -> None:
    """Shard a module over all processes, in place: block by block, the rest with the module.

    Args:
        shell: Module on the CPU that is called in training; its buffers stay whole.
        device: Where this process computes.
        count: How many processes there are.

    Raises:
        LayerticketError: If a parameter is a scalar, which cannot be divided.
    """
    scalars = [name for name, parameter in shell.named_parameters() if not parameter.ndim]
    if scalars:
        raise LayerticketError(
            f"parameter {scalars[0]!r} is a scalar, which cannot be sharded. Give it the shape "
            "(1,), or train without sharding."
        )
    mesh = init_device_mesh(device.type, (count,))
    total = sum(parameter.numel() for parameter in shell.parameters())
    for unit in list(_units(shell, total)):
        fully_shard(unit, mesh=mesh)
    fully_shard(shell, mesh=mesh)
    for module in shell.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(
                name, buffer.to(device), persistent=name not in module._non_persistent_buffers_set
            )


def _units(module: nn.Module, total: int) -> Iterator[nn.Module]:
    """Modules gathered one at a time: the blocks, found by going through containers.

    A module with more than half of the parameters is gone into, one with less than a hundredth
    stays with the rest.
    """
    for child in module.children():
        size = sum(parameter.numel() for parameter in child.parameters())
        if isinstance(child, _CONTAINERS) or (2 * size > total and any(child.children())):
            yield from _units(child, total)
        elif 100 * size >= total:
            yield child


def send(home: nn.Module, own: Optimizer, away: nn.Module, stepping: Optimizer) -> None:
    """Fill the sharded network and its optimizer from whole ones that are equal everywhere."""
    targets = dict(away.named_parameters())
    with torch.no_grad():
        for name, whole in home.named_parameters():
            targets[name].copy_(_divided(whole, targets[name]))
        for name, buffer in away.named_buffers():
            buffer.copy_(home.get_buffer(name))
    for name, value in optimizer_state(home, own).items():
        owner, _, key = name.rpartition("/")
        like = targets[owner]
        stepping.state[like][key] = _divided(value, like) if value.ndim else value


def bring(home: nn.Module, own: Optimizer, away: nn.Module, stepping: Optimizer) -> None:
    """Fill whole network and optimizer from the sharded ones; all processes take part."""
    sources = dict(away.named_parameters())
    with torch.no_grad():
        for name, whole in home.named_parameters():
            whole.copy_(_whole(sources[name]))
        for name, buffer in home.named_buffers():
            buffer.copy_(away.get_buffer(name))
    state = {name: _whole(value) for name, value in optimizer_state(away, stepping).items()}
    fill_optimizer(home, own, state)


def _divided(whole: Tensor, like: Tensor) -> Tensor:
    """Divide a tensor that every process has whole as another one is divided."""
    if not isinstance(like, DTensor):
        return whole.detach().to(like.device)
    at = like.to_local().device
    return distribute_tensor(
        whole.detach().to(at).contiguous(), like.device_mesh, like.placements, src_data_rank=None
    )


def _whole(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, DTensor):
        return tensor.detach()
    whole: Tensor = tensor.full_tensor().detach().cpu()
    return whole


# A process waits this long for process 0, which may be testing; a process that dies is noticed at
# once, because its connections close.
_PATIENCE = timedelta(hours=12)
_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
_OTHER_ENGINES = ("FSDP", "DEEPSPEED", "MEGATRON_LM")


def launched() -> int:
    """How many processes a launcher started together with this one.

    Raises:
        LayerticketError: If the environment holds no number.
    """
    return _number("WORLD_SIZE", 1)


@contextmanager
def processes(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that a launcher started, or find that there is only this one.

    Inside another use, or where torch.distributed is at work already, its processes are taken.

    Args:
        device: "auto" or "cuda": gradients travel by NCCL between GPUs; "cpu": by gloo.

    Yields:
        The processes.

    Raises:
        LayerticketError: If the launcher's variables do not fit together.
    """
    if distributed.is_available() and distributed.is_initialized():
        yield _joined(distributed.group.WORLD)
        return
    count = launched()
    if count == 1:
        yield ALONE
        return
    _check_launch(count)
    gpus = device != "cpu" and torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(_number("LOCAL_RANK", 0) % torch.cuda.device_count())
    distributed.init_process_group("nccl" if gpus else "gloo")
    try:
        yield _joined(distributed.group.WORLD)
    except BaseException:
        if not gpus:  # NCCL would wait for the others; they hear of it when this process ends
            _leave()
        raise
    _leave()


@functools.cache
def _joined(world: object) -> Processes:
    """Tell who this process is; opens the group for messages, once."""
    count = distributed.get_world_size()
    if count == 1:
        return ALONE
    return Processes(
        rank=distributed.get_rank(),
        count=count,
        local_rank=_number("LOCAL_RANK", 0),
        group=distributed.new_group(backend="gloo", timeout=_PATIENCE),
    )


def _leave() -> None:
    _joined.cache_clear()
    distributed.destroy_process_group()


def _check_launch(count: int) -> None:
    """Refuse a launch that torch would wait on for ever, or that asks for another engine."""
    if missing := [name for name in _NEEDED if not os.environ.get(name)]:
        raise LayerticketError(
            f"WORLD_SIZE is {count}, but {', '.join(missing)} is not set, so the processes cannot "
            "find each other. Start them with torchrun or accelerate launch, or unset WORLD_SIZE."
        )
    for engine in _OTHER_ENGINES:
        if os.environ.get(f"ACCELERATE_USE_{engine}", "false").lower() == "true":
            raise LayerticketError(
                f"accelerate launch was told to use {engine}, but weights are spread here by "
                "`--shard` alone. Launch without it and add --shard to the training."
            )


def _number(name: str, default: int) -> int:
    """Read a whole number from the environment."""
    given = os.environ.get(name) or str(default)
    if not given.isdecimal():
        raise LayerticketError(f"{name} is {given!r} in the environment; it must be a number.")
    return int(given)


_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Choices that have a meaning for several processes only."""

    shard: bool = False
    """Whether weights, gradients and momentum lie in parts on the devices (FSDP2), for a network
    that does not fit on one; otherwise every device holds all of them (DDP)."""
    sync_batch_norm: bool = False
    """Whether batch norms take mean and variance over the images of all processes; otherwise each
    takes those of its own images. On GPUs only."""

    def check(self, team: Processes, device: torch.device) -> None:
        """Refuse what would do nothing, or cannot be done.

        Raises:
            LayerticketError: If there is one process, or no GPU for synchronized batch norms.
        """
        wanted = [name for name in ("shard", "sync_batch_norm") if getattr(self, name)]
        if wanted and team.count == 1:
            raise LayerticketError(
                f"{wanted[0]} needs several processes, but there is one. Start them with torchrun "
                "or accelerate launch, or leave it out."
            )
        if self.sync_batch_norm and device.type != "cuda":
            raise LayerticketError(
                f"sync_batch_norm is made for GPUs, but training runs on {device}. Leave it out: "
                "each process then normalizes by its own images."
            )


@contextmanager
def global_batch_norms(model: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Put torch's synchronized batch norms in place of the plain ones, and take them out again.

    Parameters and buffers are the same tensors before, meanwhile and afterwards. Where the model is
    moved or cast meanwhile, its plain norms get what the synchronized ones hold in the end.

    Raises:
        LayerticketError: If a batch norm is of a class of its own, which torch would not keep.
    """
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if wanted and isinstance(child, _BatchNorm)
    ]
    for _, name, child in places:
        if type(child) not in _PLAIN:
            raise LayerticketError(
                f"batch norm {name!r} is a {type(child).__name__}, of which torch has no "
                "synchronized kind. Leave sync_batch_norm out."
            )
    try:
        for parent, name, child in places:
            setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]
        yield
    finally:
        for parent, name, child in places:
            used = getattr(parent, name)
            for key, parameter in used._parameters.items():
                child.register_parameter(key, parameter)
            for key, buffer in used._buffers.items():
                child.register_buffer(key, buffer, key not in used._non_persistent_buffers_set)
            setattr(parent, name, child.train(used.training))


_REMEDY = (
    "Every process has to remove the same blocks and start from the same weights: load one saved "
    "ticket on all of them, or find it on process 0 and hand it out with `first`."
)


def same_on_all_ranks(model: nn.Module, **facts: object) -> str:
    """Check that all processes hold the same network, and refuse on all of them if not.

    Call it on every process, before the model is wrapped (DDP, FSDP). In one process it compares
    nothing. Cost: one SHA-256 over the weights, one message of about 200 bytes a process.

    Args:
        model: Network to compare by modules, settings, and names, shapes and values of tensors.
        facts: JSON values that must be equal too, such as ``ticket=ticket.digest``.

    Returns:
        The fingerprint: SHA-256 over architecture, weights and facts.

    Raises:
        LayerticketError: If a process holds another network or other facts than process 0; the
            message names the processes and what differs.
    """
    parts = {
        "architecture": architecture_digest(model),
        "weights": weights_digest(model),
        **{name: digest(value) for name, value in facts.items()},
    }
    with processes() as team:
        team.agree(parts, _REMEDY)
    return digest(parts)
