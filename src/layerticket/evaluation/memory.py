"""Measure the peak memory of training steps in a new process.

A process keeps its peak until it ends, so the peak of one network needs a new process: this module
is run as ``python -m layerticket.evaluation.memory`` with one JSON object as its argument.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass

import torch
from torch import nn

from layerticket.blocks.block import Granularity
from layerticket.blocks.find import find_blocks
from layerticket.data.dataset import noise
from layerticket.errors import LayerticketError
from layerticket.models.load import build_model
from layerticket.settings import Count, Text, from_table, settings
from layerticket.surgery.remove import remove_blocks
from layerticket.training.device import (
    peak_memory_bytes,
    resolve_device,
    restart_peak_memory,
)
from layerticket.training.recipe import Recipe
from layerticket.training.steps import timed_steps

_STEPS = {"cpu": 3, "cuda": 6}  # on a GPU the fourth step is recorded as a graph


@settings
class MemoryRequest:
    """A network by name, and the recipe to train it."""

    model: Text
    """Name of the dense network."""
    shape: tuple[Count, Count, Count]
    """(C, H, W) of its images."""
    classes: Count
    removed: tuple[Text, ...] = ()
    """Blocks or branches to remove first."""
    granularity: Granularity = "block"
    """Whether these are blocks or branches."""
    recipe: Recipe = Recipe()
    """Batch size, precision and memory format."""
    device: Text = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class PeakMemory:
    """Peak memory of a new process that ran a few training steps."""

    peak_bytes: int
    """Peak memory: of torch's allocator on a GPU, of the whole process on a CPU."""
    before_bytes: int
    """Peak memory before the first step: on a CPU this is Python, torch and the network."""

    @property
    def training_bytes(self) -> int:
        """Memory added by training."""
        return self.peak_bytes - self.before_bytes


def peak_memory(request: MemoryRequest) -> PeakMemory:
    """Measure the peak memory of a few training steps in a new process.

    Args:
        request: The network and recipe; trained on noise, since pixels do not matter.

    Raises:
        LayerticketError: If the network, a block or the device is not known.
        RuntimeError: If the process fails.
    """
    resolve_device(request.device)
    command = [sys.executable, "-m", "layerticket.evaluation.memory", json.dumps(asdict(request))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        kind = LayerticketError if "LayerticketError" in last else RuntimeError
        raise kind(f"the peak memory of {request.model} could not be measured: {last}")
    return PeakMemory(**json.loads(done.stdout.splitlines()[-1]))


def _measure(request: MemoryRequest) -> PeakMemory:
    """Measure the peak memory in this process."""
    model = _network(request)
    data = noise(request.shape, classes=request.classes, images=request.recipe.batch_size)
    device = resolve_device(request.device)
    with timed_steps({"": model}, data, request.recipe, device=request.device) as sides:
        restart_peak_memory(device)  # what the search for blocks needed does not count
        before = peak_memory_bytes(device)
        for _ in range(_STEPS[device.type]):
            sides[""].step()
        return PeakMemory(peak_bytes=peak_memory_bytes(device), before_bytes=before)


def _network(request: MemoryRequest) -> nn.Module:
    """Build the network, and remove its blocks."""
    channels = request.shape[0]
    model = build_model(request.model, classes=request.classes, channels=channels, seed=0)
    if not request.removed:
        return model
    example = torch.zeros(1, *request.shape)
    found = find_blocks(model, example, granularity=request.granularity)
    return remove_blocks(model, found.named(request.removed))


if __name__ == "__main__":
    asked = from_table(MemoryRequest, json.loads(sys.argv[1]), "memory request")
    sys.stdout.write(json.dumps(asdict(_measure(asked))) + "\n")
