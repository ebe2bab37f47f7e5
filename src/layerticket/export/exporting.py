"""Writes a network in several formats, reads each back, and compares what both compute."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerticket.batch import Inputs, map_tensors, size_of
from layerticket.errors import LayerticketError, unknown_name
from layerticket.export import formats as written
from layerticket.export.graphs import Traced
from layerticket.files import write_atomically
from layerticket.view import copy_of, preserved_random_state

__all__ = ["FORMATS", "Exported", "export"]

RECORD = "export.json"
TINY = float(torch.finfo(torch.float32).tiny)  # outputs of zero are compared as they are
Reloaded = Callable[[Inputs], Sequence[Tensor]]
FORMATS: dict[str, tuple[str, Callable[[Traced, Path], Reloaded]]] = {
    "safetensors": ("model.safetensors", written.safetensors),
    "transformers": ("transformers", written.transformers),
    "torch": ("model.pt2", written.torch_export),
    "onnx": ("model.onnx", written.onnx),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """One file, and how far what it computes is from what the network computes."""

    format: str
    path: str
    bytes: int
    """Size of the file, or of all files of the folder."""
    difference: float
    """Largest difference of an output, over the largest output, each tensor by itself."""
    tolerance: float
    any_batch: bool
    """Whether it was also compared at another number of examples than the one given."""


def export(
    model: nn.Module,
    folder: str | Path,
    example: Inputs,
    *,
    formats: Sequence[str] = ("safetensors", "torch"),
    tolerance: float = 1e-4,
    any_batch: bool = True,
) -> dict[str, Exported]:
    """Write a network in several formats; read every file back and compare the outputs.

    The network is exported as it evaluates (dropout off, running statistics), from a copy on the
    CPU; `model` is not modified. The figures are also written to ``export.json``.

    Args:
        model: Any network, for example ``ticket.apply(dense)`` after training.
        folder: Where to write; made if missing. Files of the same name are replaced.
        example: Inputs to compare on (a tensor, a tuple or a dict), of the shape to be used.
        formats: Keys of `FORMATS`: ``safetensors`` (weights only, read back into the class),
            ``transformers`` (`save_pretrained`), ``torch`` (`torch.export`), ``onnx`` (extra of
            that name).
        tolerance: Largest difference of an output allowed, over the largest of its tensor.
        any_batch: Whether the graphs of ``torch`` and ``onnx`` take any number of examples; then
            all files are compared at two numbers of examples.

    Returns:
        What was written and measured, by format.

    Raises:
        LayerticketError: If a format is unknown, its package is missing, the network cannot be
            written in it, or what was read back computes something else.
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("export format", name, FORMATS)
    if not formats or not tolerance > 0:
        raise LayerticketError("give at least one format, and a tolerance above 0.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plain = copy_of(model).cpu().eval()
    inputs = map_tensors(example, lambda t: t.detach().cpu())
    trials = [inputs, _doubled(inputs)] if any_batch else [inputs]
    traced = Traced(plain, trials[-1], any_batch)
    found: dict[str, Exported] = {}
    for name in dict.fromkeys(formats):
        file, write = FORMATS[name]
        with preserved_random_state(0), torch.no_grad():
            reloaded = write(traced, folder / file)
            difference = max(_difference(name, traced, reloaded, trial) for trial in trials)
        if not difference <= tolerance:
            raise LayerticketError(
                f"what was read back from {folder / file} differs from the network by "
                f"{difference:.2g}, more than the tolerance of {tolerance:g}. Do not use it; "
                "allow more only if the numbers of the network are known to be that coarse."
            )
        found[name] = Exported(
            format=name,
            path=str(folder / file),
            bytes=_bytes(folder / file),
            difference=difference,
            tolerance=tolerance,
            any_batch=any_batch,
        )
    record = {"torch": torch.__version__, "files": {n: asdict(e) for n, e in found.items()}}
    write_atomically(folder / RECORD, json.dumps(record, indent=1) + "\n")
    return found


def _difference(name: str, traced: Traced, reloaded: Reloaded, inputs: Inputs) -> float:
    """Compare the outputs of the network and of what was read back."""
    expected, given = traced.outputs(inputs), reloaded(inputs)
    if [t.shape for t in expected] != [t.shape for t in given]:
        raise LayerticketError(
            f"what was read back as {name} gives outputs of shapes "
            f"{[tuple(t.shape) for t in given]}, the network {[tuple(t.shape) for t in expected]}."
        )
    largest = 0.0
    for a, b in zip(expected, given, strict=True):
        scale = max(TINY, float(a.abs().max())) if a.numel() else 1.0
        apart = float((a.double() - b.double()).abs().max()) / scale if a.numel() else 0.0
        largest = max(largest, apart) if apart == apart else float("nan")
    return largest


def _doubled(inputs: Inputs) -> Any:  # noqa: ANN401 - same type as given
    """Return every example twice."""
    size_of(inputs)  # refuses inputs whose tensors disagree on the number of examples
    return map_tensors(inputs, lambda t: torch.cat([t, t]))


def _bytes(path: Path) -> int:
    """Return the size of a file with its external weights, or of a folder."""
    beside = path.parent.glob(f"{path.name}.data") if path.is_file() else path.rglob("*")
    files = [path, *beside] if path.is_file() else list(beside)
    return sum(file.stat().st_size for file in files if file.is_file())
