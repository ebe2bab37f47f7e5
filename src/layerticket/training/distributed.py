"""Train one network with several processes. An error on process 0 is raised on all."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from layerticket.errors import ECHO, LayerticketError, TrainingError, short
from layerticket.files import digest
from layerticket.settings import Flag, settings

if TYPE_CHECKING:  # options must not import torch, which takes a second
    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer

T = TypeVar("T")

# How long a process waits for process 0, which may be testing. A process that dies is detected at
# once, because its connections close.
_TIMEOUT = timedelta(hours=12)
_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
_OTHER_ENGINES = ("FSDP", "DEEPSPEED", "MEGATRON_LM")


@settings
class DistributedOptions:
    """Options for several processes, started by torchrun or similar."""

    shard: Flag = False
    """Divide weights, gradients and momentum over the processes (FSDP2), for networks that do not
    fit on one device; otherwise every device has all of them (DDP)."""
    sync_batch_norm: Flag = False
    """Compute batch norm statistics over the images of all processes (GPUs only)."""

    def check(self, group: Processes, device: torch.device) -> None:
        """Raise for options that have no effect or are impossible here."""
        wanted = [name for name in ("shard", "sync_batch_norm") if getattr(self, name)]
        if wanted and group.count == 1:
            raise LayerticketError(
                f"{wanted[0]} needs several processes, but there is one. Start several with "
                "torchrun or accelerate launch, or leave it out."
            )
        if self.sync_batch_norm and device.type != "cuda":
            raise LayerticketError(
                f"sync_batch_norm works on GPUs only, but training runs on {device}. Leave it out: "
                "each process then normalizes with its own images."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """The processes of one training, as known to one of them."""

    rank: int = 0
    """Number of this process, from 0; process 0 writes the files."""
    count: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Number of this process on its machine; selects its GPU."""
    channel: Any = None
    """Process group for messages; None for one process."""

    def on_rank0(self, work: Callable[[], T]) -> T:
        """Run a function on process 0 and return its result on all processes.

        Args:
            work: Called on process 0 only; must not use collective operations. Its result is
                pickled for the other processes.

        Raises:
            Exception: The error of `work`, on every process: on process 0 unchanged; on the
                others as LayerticketError if it was one, else as TrainingError.
        """
        if self.count == 1:
            return work()
        if self.rank:
            outcome, value = self._from_rank0(None)
            if outcome == "done":
                return value  # type: ignore[no-any-return]  # unpickled
            err: BaseException = _RAISED.get(outcome, TrainingError)(value)
            err.add_note(ECHO)
            raise err
        try:
            result = work()
        except BaseException as err:
            refused = isinstance(err, LayerticketError)
            failed = "failed" if isinstance(err, Exception) else "stopped"
            outcome = "refused" if refused else failed
            self._from_rank0((outcome, " ".join(str(err).split()) or type(err).__name__))
            raise
        self._from_rank0(("done", result))
        return result

    def rank0_first(self, work: Callable[[], T]) -> T:
        """Run a function on process 0, then on the others; for downloads and caches."""
        if self.rank:
            self.on_rank0(lambda: None)
            return work()
        results: list[T] = []
        self.on_rank0(lambda: results.append(work()))
        return results[0]

    @contextmanager
    def enter_on_rank0(self, resource: AbstractContextManager[Any]) -> Iterator[None]:
        """Enter a context on process 0 only; if that fails, all processes raise."""
        with ExitStack() as stack:
            self.on_rank0(lambda: (stack.enter_context(resource), None)[1])
            yield

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in order of rank."""
        if self.count == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.count
        with _explain_lost_process():
            distributed.all_gather_object(values, value, group=self.channel)
        return values

    def share(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of process 0 on the CPU, on every process."""
        if self.count == 1:
            return dict(tensors)
        import torch

        shapes = self.on_rank0(lambda: {name: (t.shape, t.dtype) for name, t in tensors.items()})
        shared = {}
        for name, (shape, dtype) in shapes.items():
            mine = tensors[name].detach().cpu().contiguous() if not self.rank else None
            shared[name] = torch.empty(shape, dtype=dtype) if mine is None else mine
            with _explain_lost_process():
                torch.distributed.broadcast(shared[name], src=0, group=self.channel)
        return shared

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes."""
        if self.count == 1:
            return values
        from torch import distributed

        values = values / self.count
        distributed.all_reduce(values)
        return values

    def agree(self, parts: Mapping[str, str], remedy: str) -> None:
        """Raise on every process if digests differ between processes.

        Args:
            parts: Digests by name.
            remedy: Advice for the message.

        Raises:
            LayerticketError: If a digest differs from process 0; it names processes and digests.
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
            raise self.on_every_rank(err)

    def on_every_rank(self, err: Exception) -> Exception:
        """Mark an exception that every process raises, so that it is printed once."""
        if self.rank:
            err.add_note(ECHO)
        return err

    def part(self, size: int) -> tuple[int, int]:
        """Return start and end of this process's part of a batch; sizes differ by one at most.

        Example:
            >>> [Processes(rank=rank, count=3).part(8) for rank in range(3)]
            [(0, 2), (2, 5), (5, 8)]
        """
        return size * self.rank // self.count, size * (self.rank + 1) // self.count

    def _from_rank0(self, value: Any) -> Any:  # noqa: ANN401 - any value
        """Broadcast a value from process 0."""
        from torch import distributed

        box = [value]
        with _explain_lost_process():
            distributed.broadcast_object_list(box, src=0, group=self.channel)
        return box[0]


ALONE = Processes()
"""A single process."""
_RAISED: Mapping[str, type[BaseException]] = {
    "refused": LayerticketError,
    "stopped": KeyboardInterrupt,
}
"""Error on the other processes, by the outcome on process 0; TrainingError for all others."""


@contextmanager
def _explain_lost_process() -> Iterator[None]:
    """Turn a communication error into a message that another process has ended."""
    try:
        yield
    except RuntimeError as err:
        raise TrainingError(
            "another process of this training ended or cannot be reached; see its own message "
            f"({short(err)}). Start all processes again: the run resumes."
        ) from err


def launched() -> int:
    """Return the number of processes that a launcher started, including this one."""
    return _number("WORLD_SIZE", 1)


@contextmanager
def processes(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that a launcher started; without a launcher, use this one only.

    torchrun, accelerate launch, Ray and SLURM scripts set the same variables: RANK, WORLD_SIZE,
    LOCAL_RANK, MASTER_ADDR, MASTER_PORT. If torch.distributed is already initialized, its processes
    are used.

    Args:
        device: "auto" or "cuda": gradients are sent by NCCL between GPUs; "cpu": by gloo.

    Yields:
        The processes.

    Raises:
        LayerticketError: If the launcher's variables contradict each other.
    """
    import torch
    from torch import distributed

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
        if not gpus:  # NCCL would wait for the others; they fail when this process ends
            _leave()
        raise
    _leave()


@functools.cache
def _joined(world: object) -> Processes:
    """Return the processes as seen from this one; open the group for messages, once."""
    from torch import distributed

    count = distributed.get_world_size()
    if count == 1:
        return ALONE
    return Processes(
        rank=distributed.get_rank(),
        count=count,
        local_rank=_number("LOCAL_RANK", 0),
        channel=distributed.new_group(backend="gloo", timeout=_TIMEOUT),
    )


def _leave() -> None:
    from torch import distributed

    _joined.cache_clear()
    distributed.destroy_process_group()
    gc.collect()  # threads of a group that is still held when Python ends can abort the process


def _check_launch(count: int) -> None:
    """Raise if a variable is missing, so that torch would wait forever, or for another engine."""
    if missing := [name for name in _NEEDED if not os.environ.get(name)]:
        raise LayerticketError(
            f"WORLD_SIZE is {count}, but {', '.join(missing)} is not set, so the processes cannot "
            "find each other. Start them with torchrun or accelerate launch, or unset WORLD_SIZE."
        )
    for engine in _OTHER_ENGINES:
        if os.environ.get(f"ACCELERATE_USE_{engine}", "false").lower() == "true":
            raise LayerticketError(
                f"accelerate launch uses {engine}, but weights can be sharded here only by "
                "`--shard`. Launch without it and add --shard to the training."
            )


def _number(name: str, default: int) -> int:
    """Return a whole number from the environment."""
    given = os.environ.get(name) or str(default)
    if not given.isdecimal():
        raise LayerticketError(f"{name} is {given!r} in the environment; it must be a number.")
    return int(given)


_REMEDY = (
    "Every process must remove the same blocks and start from the same weights. Load one saved "
    "ticket on all processes, or find it on process 0 and send it with `on_rank0`."
)


def same_on_all_ranks(model: nn.Module, **facts: object) -> str:
    """Check that all processes have the same network; raise on all of them if not.

    Call it on every process, before the model is wrapped (DDP, FSDP). With one process there is
    nothing to compare. Cost: one SHA-256 over the weights, about 200 bytes sent per process.

    Args:
        model: Network to compare by modules, settings, and names, shapes and values of tensors.
        facts: JSON values that must be equal too, such as ``ticket=ticket.digest``.

    Returns:
        The fingerprint: SHA-256 over architecture, weights and facts.

    Raises:
        LayerticketError: If a process has another network or other facts than process 0; the
            message names the processes and the difference.
    """
    from layerticket.ticket.ticket import architecture_digest, weights_digest

    parts = {
        "architecture": architecture_digest(model),
        "weights": weights_digest(model),
        **{name: digest(value) for name, value in facts.items()},
    }
    with processes() as group:
        group.agree(parts, _REMEDY)
    return digest(parts)


def shard(root: nn.Module, device: torch.device, count: int) -> None:
    """Shard a module on the CPU, in place: block by block, then its other parameters together."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if scalars := [name for name, parameter in root.named_parameters() if not parameter.ndim]:
        raise LayerticketError(
            f"parameter {scalars[0]!r} is a scalar, which cannot be sharded. Give it the shape "
            "(1,), or train without sharding."
        )
    mesh = init_device_mesh(device.type, (count,))
    total = sum(parameter.numel() for parameter in root.parameters())
    for unit in list(_units(root, total)):
        fully_shard(unit, mesh=mesh)
    fully_shard(root, mesh=mesh)
    for module in root.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(
                name, buffer.to(device), persistent=name not in module._non_persistent_buffers_set
            )


def _units(module: nn.Module, total: int) -> Iterator[nn.Module]:
    """Yield the modules that are gathered one at a time: the blocks inside containers.

    A module with more than half of the parameters is split further. One with less than a hundredth
    of them is not gathered separately.
    """
    from torch import nn

    for child in module.children():
        size = sum(parameter.numel() for parameter in child.parameters())
        container = isinstance(child, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
        if container or (2 * size > total and any(child.children())):
            yield from _units(child, total)
        elif 100 * size >= total:
            yield child


def whole_state(
    sharded: nn.Module, optimizer: Optimizer
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gather weights and optimizer state on process 0; the others get nothing."""
    from torch.distributed.checkpoint import state_dict as dcp

    whole = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = dcp.get_model_state_dict(sharded, options=whole)
    state: dict[str, Any] = dcp.get_optimizer_state_dict(sharded, optimizer, options=whole)
    return weights, {
        f"{name}/{key}": value
        for name, values in state.get("state", {}).items()
        for key, value in values.items()
        if value is not None
    }


def fill_shards(
    whole: nn.Module, sharded: nn.Module, optimizer: Optimizer, state: Mapping[str, Tensor]
) -> None:
    """Fill a sharded network and its optimizer from whole ones that are equal on every process."""
    import torch
    from torch.distributed.tensor import DTensor, distribute_tensor

    def divided(tensor: Tensor, like: Tensor) -> Tensor:
        if not isinstance(like, DTensor):
            return tensor.detach().to(like.device)
        here = tensor.detach().to(like.to_local().device).contiguous()
        return distribute_tensor(here, like.device_mesh, like.placements, src_data_rank=None)

    targets = dict(sharded.named_parameters())
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            targets[name].copy_(divided(parameter, targets[name]))
        for name, buffer in whole.named_buffers():
            sharded.get_buffer(name).copy_(buffer)
    for name, value in state.items():
        owner, _, key = name.rpartition("/")
        like = targets[owner]
        optimizer.state[like][key] = divided(value, like) if value.ndim else value.detach().clone()


@contextmanager
def synchronized_batch_norms(model: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Replace batch norms by torch's synchronized ones, and restore them at the end.

    Both share their tensors. If the model is moved meanwhile, the plain norms get the new tensors.
    """
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if wanted and isinstance(child, _BatchNorm)
    ]
    for _, name, child in places:
        if type(child) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            raise LayerticketError(
                f"batch norm {name!r} is a {type(child).__name__}, which torch cannot "
                "synchronize. Leave sync_batch_norm out."
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
