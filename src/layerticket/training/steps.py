"""One training step: loss, gradients, update; for `fit` and for timing."""

import itertools
import logging
import random
import sys
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer
from torch.random import fork_rng

from layerticket.batch import logits_of
from layerticket.data.batches import Mixing, batches
from layerticket.data.dataset import UNCHANGED, Dataset
from layerticket.data.sources import POLICIES
from layerticket.data.streaming import Policy
from layerticket.errors import LayerticketError, short
from layerticket.modules import computed_weights, copy_of
from layerticket.training.checkpoint import ResumePoint, Snapshot, copy_weights
from layerticket.training.device import (
    compile_pays,
    has_compiler,
    place,
    repeatable_kernels,
    resolve_device,
    resolve_precision,
)
from layerticket.training.distributed import ALONE, Processes, fill_shards, shard, whole_state
from layerticket.training.drop_path import drop_paths
from layerticket.training.recipe import Recipe

log = logging.getLogger(__name__)


class Objective(nn.Module):
    """Mean cross-entropy of a model, in nats; this module is wrapped, sharded and compiled."""

    def __init__(
        self, model: nn.Module, recipe: Recipe, device: str, *, bf16: bool, classes: int
    ) -> None:
        super().__init__()
        self.model, self.label_smoothing, self.classes = model, recipe.label_smoothing, classes
        self.device, self.bf16 = device, bf16

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of images (N, C, H, W) with labels (N,) or class shares (N, K)."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            logits = logits_of(self.model(images)).float()  # (N, K)
            check_outputs(logits, self.classes)
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


def check_outputs(logits: Tensor, classes: int) -> None:
    """Raise if a network has fewer outputs than the data have classes; logits are (N, K)."""
    outputs = logits.shape[1] if logits.ndim > 1 else 1
    if outputs < classes:
        raise LayerticketError(
            f"the network has {outputs} outputs, but the data have {classes} classes. Build it for "
            "as many."
        )


class Trainer:
    """A network with everything that a step needs: data, objective, optimizer, processes."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device,
        start: ResumePoint = ResumePoint(),  # noqa: B008 - frozen
        group: Processes = ALONE,
        sharded: bool = False,
        graph_place: "GraphPlace | None" = None,
    ) -> None:
        if sharded and recipe.ema_decay:
            raise LayerticketError(
                "ema_decay needs whole weights, but the weights are sharded. Leave out ema_decay "
                "or --shard."
            )
        self.model, self.dataset, self.recipe, self.seed = model, dataset, recipe, seed
        self.device, self.group, self.sharded = device, group, sharded
        self.policy = recipe.augmentation if recipe.augmentation in POLICIES else None
        if self.policy is not None:
            Policy(self.policy, seed, 0).check(dataset.shape, dataset.train.dtype)
        # Images that are augmented one by one stay on the CPU, for the workers.
        self.images = dataset.train if self.policy else dataset.train.to(device)
        self.batch_size = min(recipe.batch_size, len(self.images))
        self.steps_per_epoch = len(self.images) // self.batch_size
        self.part = group.part(self.batch_size)
        # Gradients are averaged over processes; their parts may differ by one image.
        self.weight = group.count * (self.part[1] - self.part[0]) / self.batch_size

        self.trained = copy_of(model) if sharded else model
        bf16 = resolve_precision(recipe.precision, device) == "bf16"
        objective: nn.Module = Objective(
            self.trained, recipe, device.type, bf16=bf16, classes=dataset.classes
        )
        if sharded:
            shard(objective, device, group.count)
        self.optimizer = make_optimizer(self.trained, recipe, fused=not sharded)
        self.rate = torch.zeros((), device=device)
        if device.type == "cuda" and not sharded:  # a CUDA graph reads the rate from memory
            for settings in self.optimizer.param_groups:
                settings |= {"lr": self.rate, "capturable": True}
        if group.count > 1 and not sharded:
            ids = [device.index] if device.type == "cuda" else None
            objective = DistributedDataParallel(objective, device_ids=ids)
        self.objective = objective
        self._steps = self.steps_per_epoch * (recipe.epochs - start.epoch)
        self.average = copy_of(model) if recipe.ema_decay else None
        self._fill(start.optimizer, start.average)
        self._captured = None
        if device.type == "cuda" and group.count == 1 and not sharded and recipe.cuda_graph:
            networks = [self.trained] + ([] if self.average is None else [self.average])
            self._captured = CapturedStep(networks, device, graph_place)

    def compile(self, decided: bool | None = None) -> bool:
        """Compile the steps if the recipe asks for it, and return whether they are compiled.

        Args:
            decided: What "auto" was decided to mean at the start of the training; None: decide.

        Raises:
            LayerticketError: If it was decided to compile, and there is no compiler here.
        """
        if decided is None or self.recipe.compile != "auto":
            decided = compile_pays(self.recipe.compile, self._steps, self.device)
        elif decided and not has_compiler():
            raise LayerticketError(
                "this training was started with compiled steps, but this machine has no C++ "
                "compiler. Install one (g++), or set compile to off: the last bits may differ."
            )
        if decided:
            inner = next(m for m in self.objective.modules() if isinstance(m, Objective))
            give_own_code(inner)  # the objective may be wrapped
            self.objective = torch.compile(self.objective)  # type: ignore[assignment]
        return decided

    def prepare_epoch(self) -> None:
        """Set training mode; call this before an epoch, since validation may change the network."""
        self.trained.train()
        if self._captured is not None:
            self._captured.check()

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's part of the shuffled, augmented batches of an epoch."""
        return batches(
            self.dataset,
            self.images,
            self.batch_size,
            seed=self.seed,
            epoch=epoch,
            train=True,
            augment=UNCHANGED if self.recipe.augmentation == "none" else None,
            policy=self.policy,
            mixing=Mixing(mixup=self.recipe.mixup, cutmix=self.recipe.cutmix),
            drop_last=True,
            channels_last=self.recipe.channels_last,
            part=self.part,
            device=self.device,
        )

    def step(self, images: Tensor, labels: Tensor, rate: float) -> Tensor:
        """Update the weights once; return the loss, on the device."""
        for group in self.optimizer.param_groups:
            if group["lr"] is self.rate:
                self.rate.fill_(rate)
            else:
                group["lr"] = rate
        if self._captured is None:
            return self._update(images, labels)
        return self._captured(self._update, images, labels)

    def _update(self, images: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.objective(images, labels)
        if self.weight != 1:
            loss = loss * self.weight
        loss.backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.trained.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self._update_average(self.average)
        return loss.detach()

    @torch.no_grad()
    def _update_average(self, average: nn.Module) -> None:
        """Update the running average of the parameters; buffers are copied."""
        for mean, now in zip(average.parameters(), self.trained.parameters(), strict=True):
            mean.lerp_(now, 1 - self.recipe.ema_decay)
        for buffer, now_there in zip(average.buffers(), self.trained.buffers(), strict=True):
            buffer.copy_(now_there)

    def validated(self) -> nn.Module:
        """The network that is validated: the average, if there is one."""
        return self.model if self.average is None else self.average

    def snapshot(self, epoch: int) -> Snapshot:
        """Return the state of the training, complete on process 0; call it on all processes."""
        if not self.sharded:
            average = {} if self.average is None else self.average.state_dict()
            optimizer = optimizer_state(self.model, self.optimizer)
            weights = self.model.state_dict()
            return Snapshot(epoch=epoch, weights=weights, optimizer=optimizer, average=average)
        weights, optimizer = whole_state(self.trained, self.optimizer)
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                buffer.copy_(self.trained.get_buffer(name))
        if not self.group.rank:
            copy_weights(weights, self.model, "the sharded network")
        return Snapshot(epoch=epoch, weights=weights, optimizer=optimizer)

    def load(self, snapshot: Snapshot | None, source: str) -> None:
        """Restore, on all processes, a snapshot of process 0; None: keep the model as it is."""
        share = self.group.share
        if self.group.on_rank0(lambda: snapshot is not None):
            found = snapshot or Snapshot(epoch=0, weights={})
            copy_weights(share(found.weights), self.model, source)
            self._fill(share(found.optimizer), share(found.average))

    def _fill(self, optimizer: Mapping[str, Tensor], average: Mapping[str, Tensor]) -> None:
        """Set optimizer and average; a sharded network is filled from the whole one."""
        if self.sharded:
            fill_shards(self.model, self.trained, self.optimizer, optimizer)
        else:
            fill_optimizer(self.model, self.optimizer, optimizer)
        if self.average is not None:
            copy_weights(average or self.model.state_dict(), self.average, "the average")

    def finish(self) -> None:
        """Copy to the model, on every process, the weights that process 0 saved last."""
        if self.average is not None:
            copy_weights(self.average.state_dict(), self.model, "the average")
        if self.group.count > 1:
            tensors = dict(self.model.named_buffers())
            if self.sharded:
                tensors |= dict(self.model.named_parameters())
            with torch.no_grad():
                for name, value in self.group.share(tensors).items():
                    tensors[name].copy_(value)


def give_own_code(objective: Objective) -> None:
    """Let PyTorch compile an objective apart from all others.

    PyTorch keeps what it compiled by code object, and runs the ninth network of one code object
    without compiling it.
    """
    shared = Objective.forward
    own = types.FunctionType(shared.__code__.replace(), shared.__globals__)
    objective.forward = types.MethodType(own, objective)  # type: ignore[method-assign]


Step = Callable[[Tensor, Tensor], Tensor]


class GraphPlace(NamedTuple):
    """Where steps are recorded: graphs that never run at the same time can share it."""

    stream: torch.cuda.Stream
    pool: Any = None
    """Memory, from `torch.cuda.graph_pool_handle`; None: each graph has its own."""


class CapturedStep:
    """A step whose kernels are recorded as a CUDA graph, so that one launch starts all of them.

    Training a small network is limited by the launches of its kernels, several hundred per step.
    The first steps run eagerly on another stream, as recording requires. A graph repeats what the
    step did when it was recorded, in the memory that it used then. So steps stay eager, with a
    warning, if they

    - wait for the GPU, or cannot be recorded for another reason,
    - draw random numbers on the CPU,
    - change numbers, texts or arrays that modules hold, also in containers and plain objects,
    - replace tensors that modules hold, or change them outside the GPU.

    Not seen is what a step changes elsewhere, such as in global variables or closures.

    Args:
        networks: The trained network; then its average, if there is one.
        device: The GPU.
        place: Stream and memory shared with other graphs; None: its own.

    References:
        Ng et al., "Accelerating PyTorch with CUDA Graphs", PyTorch blog, 2021.
    """

    def __init__(
        self, networks: Sequence[nn.Module], device: torch.device, place: GraphPlace | None = None
    ) -> None:
        self._networks, self._device = networks, device
        self._stream, self._pool = place or GraphPlace(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
        self._eager_steps = 3
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._loss = torch.empty(0)
        self._held: Held = {}

    def __call__(self, step: Step, images: Tensor, labels: Tensor) -> Tensor:
        """Train on images (N, C, H, W) and labels (N,) or (N, K); return the loss.

        Args:
            step: Updates the weights and returns the loss; the same in all calls.
            images: The images.
            labels: Their labels or class shares.

        Raises:
            LayerticketError: If recording fails in a way that PyTorch cannot continue after.
        """
        if self._eager_steps:
            self._eager_steps -= 1
            if self._eager_steps:
                return self._eagerly(step, images, labels)
            loss, obstacle = self._watched(step, images, labels)
            self._stay_eager(obstacle)
            return loss
        if self._graph is None:
            self._stay_eager(self._record(step, images.clone(), labels.clone()))
        if self._graph is None:
            return self._eagerly(step, images, labels)
        for kept, given in zip(self._inputs, (images, labels), strict=True):
            kept.copy_(given)
        self._graph.replay()
        return self._loss.clone()

    def check(self) -> None:
        """Begin again if a network was moved or changed after its step was recorded."""
        if self._graph is not None and difference(self._held, self._values()):
            self._graph, self._eager_steps = None, 3

    def _stay_eager(self, obstacle: str) -> None:
        if obstacle:
            log.warning("a training step is not a CUDA graph, so it is slower: %s", obstacle)
            self._eager_steps = -1  # never 0 again

    def _eagerly(self, step: Step, images: Tensor, labels: Tensor) -> Tensor:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            loss = step(images, labels)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return loss

    def _values(self) -> "Held":
        return held_values(self._networks, self._device)

    def _watched(self, step: Step, images: Tensor, labels: Tensor) -> tuple[Tensor, str]:
        """Run a step eagerly; also return why it cannot be a graph, as far as can be seen."""
        mode, random_states = torch.cuda.get_sync_debug_mode(), cpu_random_states()
        values = self._values()
        with warnings.catch_warnings(record=True) as raised, synchronizing_calls() as calls:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                loss = self._eagerly(step, images, labels)
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        for one in raised:
            if "ynchroniz" not in str(one.message):
                warnings.warn(one.message, stacklevel=2)
        if cpu_random_states() != random_states:
            return loss, "it draws random numbers on the CPU"
        if changed := difference(values, self._values()):
            return loss, f"it changes {changed}, which a graph would not"
        if calls:
            return loss, f"it waits for the GPU ({calls[0]})"
        waits = any("called a synchronizing" in str(one.message) for one in raised)
        return loss, "it waits for a result of the GPU, as .item() does" if waits else ""

    def _record(self, step: Step, images: Tensor, labels: Tensor) -> str:
        """Record a step; return why it cannot be recorded, or nothing."""
        graph, obstacle = torch.cuda.CUDAGraph(), ""
        # Other threads may call CUDA meanwhile: that of a data loader allocates pinned memory.
        mode = "thread_local"
        try:
            with (
                torch.cuda.stream(self._stream),  # left also where `graph` below fails to leave it
                torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode=mode),
            ):
                try:
                    self._loss = step(images, labels)
                except Exception as err:  # a mistake is raised again by the eager step
                    obstacle = (
                        f"it cannot be recorded ({type(err).__name__}: {short(err).rstrip('.')})"
                    )
        except RuntimeError as err:
            # The recording could not be ended. Allocator and random numbers may still be recording.
            raise LayerticketError(
                "a training step cannot be recorded as a CUDA graph, and PyTorch cannot continue "
                f"after this: {obstacle or short(err).rstrip('.')}. Set cuda_graph to False "
                "(--no-cuda-graph)."
            ) from err
        if obstacle:
            for network in self._networks:
                network.zero_grad(set_to_none=True)  # gradients that were never computed
        else:
            self._graph, self._inputs, self._held = graph, (images, labels), self._values()
        return obstacle


@contextmanager
def synchronizing_calls() -> Iterator[list[str]]:
    """List calls of this thread that wait for the GPU as a whole, as `torch.cuda.synchronize`.

    PyTorch does not warn about them. Under a profiler nothing is listed: Python has room for one.
    """
    found: list[str] = []

    def note(_: types.FrameType, event: str, function: Any) -> None:  # noqa: ANN401 - any callable
        name = getattr(function, "__name__", "")
        if event == "c_call" and "synchronize" in name:
            found.append(name.lstrip("_"))

    if sys.getprofile() is not None:
        yield found
        return
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)


def cpu_random_states() -> tuple[bytes, object, bytes]:
    """Return the states of the global random numbers of torch (CPU), Python and NumPy."""
    numpy_state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002 - only compared
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), repr(numpy_state).encode()


Held = dict[str, tuple[object, tuple[object, ...]]]
"""By name: a value, which is kept alive, and what is compared of it."""


def held_values(networks: Sequence[nn.Module], device: torch.device) -> Held:
    """Return what networks hold and a step could change, by the names of their places.

    These are tensors, arrays, numbers, texts and random generators, also in containers and plain
    objects. Weights that a hook computes before every call, such as masked ones, are left out. Of
    a tensor its identity and memory are compared, and outside the device the changes in place.

    Args:
        networks: The networks; the names of all but the first begin with their position.
        device: Where the graph runs.
    """
    found: Held = {}
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [
        (str(i or ""), network) for i, network in enumerate(networks)
    ]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Tensor):
            ordinary = type(value) in (Tensor, nn.Parameter) and value.layout is torch.strided
            memory = value.data_ptr() if ordinary else None
            elsewhere = value.device != device and not value.is_inference()
            changes = value._version if elsewhere else None
            found[name] = value, (id(value), memory, changes)
        elif value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            found[name] = value, (value,)
        elif isinstance(value, np.ndarray):
            found[name] = value, (value.tobytes(),)
        elif isinstance(value, torch.Generator):
            found[name] = value, (value.get_state().numpy().tobytes(),)
        elif isinstance(value, np.random.Generator):
            found[name] = value, (repr(value.bit_generator.state),)
        elif isinstance(value, random.Random):
            found[name] = value, (value.getstate(),)
        elif id(value) not in seen:
            seen.add(id(value))
            waiting += [(f"{name}{place}".lstrip("."), one) for place, one in members(value)]
    return found


def members(value: object) -> Iterator[tuple[str, object]]:
    """Yield the places and the members of a module, a container or a plain object."""
    if isinstance(value, nn.Module):
        own = {key: one for key, one in vars(value).items() if key not in _EVERY_MODULE_HAS}
        own |= {**value._parameters, **value._buffers, **value._modules}
        computed = computed_weights(value)
        yield from ((f".{key}", one) for key, one in own.items() if key not in computed)
    elif isinstance(value, Mapping):
        yield from ((f"[{key!r}]", one) for key, one in value.items())
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        yield from ((f"[{i}]", one) for i, one in enumerate(value))
    elif not callable(value) and not isinstance(value, types.ModuleType):
        yield from ((f".{key}", one) for key, one in getattr(value, "__dict__", {}).items())


_EVERY_MODULE_HAS = frozenset(vars(nn.Module()))


def difference(one: Held, other: Held) -> str:
    """Return the name of the first value that differs; nothing if all are equal."""
    for name in {**one, **other}:
        if name not in one or name not in other or one[name][1] != other[name][1]:
            return name
    return ""


def parameter_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split the trainable parameters: two or more dimensions (with decay), and the rest."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise LayerticketError(
            "the model has no trainable parameter. Set requires_grad on the parameters to train."
        )
    decayed = [parameter for parameter in trainable if parameter.ndim >= 2]
    return decayed, [parameter for parameter in trainable if parameter.ndim < 2]


def make_optimizer(model: nn.Module, recipe: Recipe, *, fused: bool = True) -> Optimizer:
    """Return the optimizer of the recipe; fused into one kernel unless weights are sharded."""
    decayed, free = parameter_groups(model)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    groups, rate = [group for group in groups if group["params"]], recipe.learning_rate
    if recipe.optimizer == "adamw":
        return AdamW(groups, lr=rate, betas=recipe.betas, fused=fused)
    return SGD(groups, lr=rate, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=fused)


def weight_copies(recipe: Recipe) -> int:
    """Return how often a step holds the weights: weights, gradients, optimizer, running average."""
    optimizer = 2 if recipe.optimizer == "adamw" else int(recipe.momentum > 0)
    return 2 + optimizer + int(recipe.ema_decay > 0)


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as ``parameter/key``; the tensors are not copied."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def fill_optimizer(model: nn.Module, optimizer: Optimizer, state: Mapping[str, Tensor]) -> None:
    """Copy a state ``parameter/key`` into an optimizer, in the layout of the parameters."""
    parameters = dict(model.named_parameters())
    for name, tensor in state.items():
        owner, _, key = name.rpartition("/")
        like = parameters.get(owner)
        if like is None or (tensor.ndim and tensor.shape != like.shape):
            raise LayerticketError(
                f"optimizer state {name!r} of shape {tuple(tensor.shape)} fits no parameter of "
                "the model. Build the model that it was written for."
            )
        mine = torch.empty_like(like) if tensor.ndim else tensor.new_empty((), device=like.device)
        optimizer.state[like][key] = mine.detach().copy_(tensor)


_RATE = 1e-6
"""Learning rate of timed steps: so small that the weights, and the cost of a step, stay equal."""


class TimedSteps:
    """Training steps of one network, to be timed."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._batches = itertools.chain.from_iterable(map(trainer.batches, itertools.count()))
        self._batch = next(self._batches)
        trainer.prepare_epoch()
        self.steps_per_epoch = trainer.steps_per_epoch

    def fetch(self) -> None:
        """Fetch the next batch, epoch after epoch."""
        self._batch = next(self._batches)

    def step(self) -> None:
        """Train on the fetched batch; a GPU may not have finished at the end."""
        self._trainer.step(*self._batch, _RATE)

    def wait(self) -> None:
        """Wait until the device has finished all steps."""
        if self._trainer.device.type == "cuda":
            torch.cuda.synchronize(self._trainer.device)


@contextmanager
def timed_steps(
    models: Mapping[str, nn.Module], dataset: Dataset, recipe: Recipe, *, device: str = "auto"
) -> Iterator[dict[str, TimedSteps]]:
    """Prepare training steps of several networks, to be timed in alternation.

    Args:
        models: Networks by name; they are copied, not modified.
        dataset: Its training split is used.
        recipe: How they would be trained; its length decides whether they are compiled.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Yields:
        Steps of each network, by name.

    Raises:
        LayerticketError: If the device is missing or no parameter is trainable.
    """
    where = resolve_device(device)
    graph_place = None
    if where.type == "cuda":
        stream = torch.cuda.Stream(where)  # type: ignore[no-untyped-call]
        graph_place = GraphPlace(stream, torch.cuda.graph_pool_handle())
    if recipe.augmentation not in POLICIES:
        dataset = replace(dataset, train=dataset.train.to(where))  # one copy for all networks
    with ExitStack() as stack:
        stack.enter_context(repeatable_kernels())
        stack.enter_context(fork_rng([where.index] if where.type == "cuda" else []))
        found = {}
        for name, model in models.items():
            own = copy_of(model)
            stack.enter_context(drop_paths(own, recipe.drop_path))
            place(own, where, channels_last=recipe.channels_last)
            trainer = Trainer(own, dataset, recipe, seed=0, device=where, graph_place=graph_place)
            trainer.compile()
            found[name] = TimedSteps(trainer)
        yield found
