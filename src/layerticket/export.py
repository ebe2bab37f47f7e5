"""Export networks to files in several formats; read each file back and compare the outputs."""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from layerticket.batch import Inputs, call, map_tensors, size_of, tensors_of
from layerticket.errors import LayerticketError, need, short, unknown_name
from layerticket.files import write_json
from layerticket.modules import copy_of, preserved_random_state
from layerticket.tensors import save_tensors

RECORD = "export.json"
TINY = float(torch.finfo(torch.float32).tiny)  # outputs of zero are compared absolutely
Reloaded = Callable[[Inputs], Sequence[Tensor]]
"""The network read back from a file, as a function from inputs to tensors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """One file, and the difference of its outputs from those of the network."""

    format: str
    path: str
    bytes: int
    """Size of the file, or of all files in the folder."""
    difference: float
    """Largest difference of an output, divided by the largest output of its tensor."""
    tolerance: float
    any_batch: bool
    """Whether outputs were also compared with another number of examples."""


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

    The network is exported in evaluation mode (dropout off, running statistics), from a copy on the
    CPU; `model` is not modified. The results are also written to ``export.json``.

    Args:
        model: Any network, for example ``ticket.apply(dense)`` after training.
        folder: Folder to write to; created if missing. Files of the same name are replaced.
        example: Inputs to compare on (a tensor, a tuple or a dict), in the shape of later use.
        formats: Keys of `FORMATS`: ``safetensors`` (weights only, read back into the class),
            ``transformers`` (`save_pretrained`), ``torch`` (`torch.export`), ``onnx`` (extra of
            that name).
        tolerance: Largest allowed difference of an output over the largest of its tensor.
        any_batch: Whether the graphs of ``torch`` and ``onnx`` take any number of examples; then
            all files are compared at two numbers of examples.

    Returns:
        The files written and their differences, by format.

    Raises:
        LayerticketError: If a format is unknown, its package is missing, the network cannot be
            written in it, or the outputs differ by more than the tolerance.
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("export format", name, FORMATS)
    if not formats or not tolerance > 0:
        raise LayerticketError("give at least one format, and a tolerance above 0.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    inputs = map_tensors(example, lambda t: t.detach().cpu())
    trials = [inputs]
    if any_batch:
        size_of(inputs)  # raises if tensors differ in the number of examples
        trials.append(map_tensors(inputs, lambda t: torch.cat([t, t])))
    traced = Traced(copy_of(model).cpu().eval(), trials[-1], any_batch)
    found: dict[str, Exported] = {}
    for name in dict.fromkeys(formats):
        file, write = FORMATS[name]
        path = folder / file
        with preserved_random_state(0), torch.no_grad():
            reloaded = write(traced, path)
            difference = max(
                _difference(name, traced.outputs(trial), reloaded(trial)) for trial in trials
            )
        if not difference <= tolerance:
            raise LayerticketError(
                f"the outputs of {path} differ from those of the network by {difference:.2g}, more "
                f"than the tolerance of {tolerance:g}. Do not use the file; raise the tolerance "
                "only if such differences are expected of this network."
            )
        files = [path, folder / f"{file}.data", *path.rglob("*")]  # .data: of a large ONNX graph
        found[name] = Exported(
            format=name,
            path=str(path),
            bytes=sum(part.stat().st_size for part in files if part.is_file()),
            difference=difference,
            tolerance=tolerance,
            any_batch=any_batch,
        )
    record = {"torch": torch.__version__, "files": {n: asdict(e) for n, e in found.items()}}
    write_json(folder / RECORD, record)
    return found


def _difference(name: str, expected: Sequence[Tensor], given: Sequence[Tensor]) -> float:
    """Compare the outputs of the network and of the file; NaN if one of them is."""
    if [t.shape for t in expected] != [t.shape for t in given]:
        raise LayerticketError(
            f"the {name} file gives outputs of shapes {[tuple(t.shape) for t in given]}, but the "
            f"network {[tuple(t.shape) for t in expected]}."
        )
    largest = torch.zeros((), dtype=torch.double)
    for a, b in zip(expected, given, strict=True):
        if a.numel():
            apart = (a.double() - b.double()).abs().max() / max(TINY, float(a.abs().max()))
            largest = torch.maximum(largest, apart)  # keeps NaN
    return float(largest)


class _Tensors(nn.Module):
    """Returns only the tensors of a network's output: one, by name, or in order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the network's
        """Call the network."""
        output = self.model(*args, **kwargs)
        if isinstance(output, Tensor):
            return output
        if isinstance(output, Mapping):
            return {key: value for key, value in output.items() if isinstance(value, Tensor)}
        return tuple(tensors_of(output))


@dataclass(frozen=True)
class Traced:
    """A network on the CPU in evaluation mode, with inputs for tracing."""

    model: nn.Module
    inputs: Inputs
    any_batch: bool

    def outputs(self, inputs: Inputs) -> list[Tensor]:
        """Return the outputs of the network itself."""
        return tensors_of(call(_Tensors(self.model), inputs))

    @functools.cached_property
    def program(self) -> Any:  # noqa: ANN401 - torch.export.ExportedProgram
        """The graph, traced once for all formats."""
        args, kwargs = _arguments(self.inputs)
        given = {"args": args} if args else {"kwargs": kwargs}
        dynamic = _any_batch(given) if self.any_batch else None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.export.export(
                    _Tensors(self.model), args, kwargs, dynamic_shapes=dynamic, strict=False
                )
        except Exception as err:  # tracing runs the network, which may raise anything
            hint = " Try any_batch=False." if self.any_batch else ""
            raise LayerticketError(
                f"torch.export cannot trace this {type(self.model).__name__}: {short(err)}."
                f"{hint} The format 'safetensors' needs no graph."
            ) from err


def _arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return inputs as positional and named arguments."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return ((inputs,), {}) if isinstance(inputs, Tensor) else (tuple(inputs), {})


def _any_batch(tree: Any) -> Any:  # noqa: ANN401 - any nesting
    """Mark the first dimension of every tensor as dynamic; other values are None."""
    if isinstance(tree, Tensor):
        return {0: torch.export.Dim.DYNAMIC} if tree.ndim else None
    if isinstance(tree, Mapping):
        return {key: _any_batch(value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(_any_batch(value) for value in tree)
    return None


# One function per format: it writes the file and returns the network read back from it.


def _safetensors(traced: Traced, path: Path) -> Reloaded:
    """Write the state dict; read it into a copy without state."""
    save_tensors(path, traced.model.state_dict(), {})
    again = copy_of(traced.model)
    for value in again.state_dict().values():
        value.zero_()
    again.load_state_dict(load_file(path))
    return lambda inputs: tensors_of(call(_Tensors(again), inputs))


def _transformers(traced: Traced, path: Path) -> Reloaded:
    """Write a folder with ``save_pretrained``; read it with the class's own ``from_pretrained``."""
    model: Any = traced.model
    if not hasattr(model, "save_pretrained") or not hasattr(type(model), "from_pretrained"):
        raise LayerticketError(
            f"{type(model).__name__} has no save_pretrained: the format 'transformers' is only for "
            "Hugging Face networks. Choose another format."
        )
    model.save_pretrained(path)
    try:
        again, loading = type(model).from_pretrained(
            path, output_loading_info=True, local_files_only=True, dtype=model.dtype
        )
    except RuntimeError as err:
        raise LayerticketError(f"{path} cannot be read back: {short(err)}") from err
    if lost := {key: sorted(map(str, value)) for key, value in loading.items() if value}:
        raise LayerticketError(f"{path} was not read back completely: {lost}.")
    again = again.eval()
    return lambda inputs: tensors_of(call(_Tensors(again), inputs))


def _torch(traced: Traced, path: Path) -> Reloaded:
    """Write the graph of `torch.export`; it runs without the network's class."""
    torch.export.save(traced.program, path)
    again = torch.export.load(path).module()
    return lambda inputs: tensors_of(call(again, inputs))


def _onnx(traced: Traced, path: Path) -> Reloaded:
    """Write an ONNX graph; run it in ONNX Runtime."""
    runtime, _, _ = (
        need(package, extra="onnx", why=f"ONNX files need {package}")
        for package in ("onnxruntime", "onnx", "onnxscript")
    )
    program = traced.program
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            written = torch.onnx.export(program, dynamo=True, verbose=False)
    except Exception as err:  # the exporter may raise anything
        raise LayerticketError(
            f"{type(traced.model).__name__} cannot be written as ONNX: "
            f"{short(err.__cause__ or err)} The format 'torch' keeps every operation of "
            "PyTorch."
        ) from err
    assert written is not None
    written.save(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(inputs: Inputs) -> list[Tensor]:
        given = [tensor.numpy() for tensor in tensors_of(_arguments(inputs))]
        outputs = session.run(None, dict(zip(names, given, strict=True)))
        return [torch.from_numpy(output) for output in outputs]

    return run


FORMATS: dict[str, tuple[str, Callable[[Traced, Path], Reloaded]]] = {
    "safetensors": ("model.safetensors", _safetensors),
    "transformers": ("transformers", _transformers),
    "torch": ("model.pt2", _torch),
    "onnx": ("model.onnx", _onnx),
}
