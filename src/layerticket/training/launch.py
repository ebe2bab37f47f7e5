"""How several processes find each other.

Enters: what a launcher (torchrun, accelerate launch, srun, Ray) put into the environment. Leaves:
`Processes` whose messages go over a gloo group of their own, on the CPU, apart from the gradients.
Refuses to know networks.
"""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

from layerticket.errors import LayerticketError
from layerticket.training.processes import ALONE, Processes

__all__ = ["launched", "processes"]

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
