"""One function for each format: writes a network, and returns what was read back, ready to run."""

import importlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from layerticket.batch import Inputs, call, tensors_of
from layerticket.errors import LayerticketError
from layerticket.export.graphs import Tensors, Traced, arguments
from layerticket.tensors import save_tensors
from layerticket.view import copy_of

__all__ = ["onnx", "safetensors", "torch_export", "transformers"]

Reloaded = Callable[[Inputs], Sequence[Tensor]]


def safetensors(traced: Traced, path: Path) -> Reloaded:
    """Write the state dict; read it into a copy whose state was erased."""
    save_tensors(path, traced.model.state_dict(), {})
    again = copy_of(traced.model)
    for value in again.state_dict().values():
        value.zero_()
    again.load_state_dict(load_file(path))
    return lambda inputs: tensors_of(call(Tensors(again), inputs))


def transformers(traced: Traced, path: Path) -> Reloaded:
    """Write a folder with ``save_pretrained``; read it with the class's own ``from_pretrained``."""
    model: Any = traced.model
    if not hasattr(model, "save_pretrained") or not hasattr(type(model), "from_pretrained"):
        raise LayerticketError(
            f"{type(model).__name__} has no save_pretrained; the format 'transformers' is for "
            "networks of Hugging Face's library. Choose another one."
        )
    model.save_pretrained(path)
    try:
        again, told = type(model).from_pretrained(
            path, output_loading_info=True, local_files_only=True, dtype=model.dtype
        )
    except RuntimeError as err:
        raise LayerticketError(f"{path} cannot be read back: {_first_line(err)}") from err
    if lost := {key: sorted(map(str, value)) for key, value in told.items() if value}:
        raise LayerticketError(f"{path} is not read back in full: {lost}.")
    again = again.eval()
    return lambda inputs: tensors_of(call(Tensors(again), inputs))


def torch_export(traced: Traced, path: Path) -> Reloaded:
    """Write the graph of `torch.export`; it runs without the network's class."""
    torch.export.save(traced.program, path)
    again = torch.export.load(path).module()
    return lambda inputs: tensors_of(call(again, inputs))


def onnx(traced: Traced, path: Path) -> Reloaded:
    """Write an ONNX graph; run it in ONNX Runtime."""
    runtime = _extra("onnxruntime")
    for package in ("onnx", "onnxscript"):
        _extra(package)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(traced.program, dynamo=True, verbose=False)
    except LayerticketError:
        raise
    except Exception as err:
        cause = _first_line(err.__cause__ or err)
        raise LayerticketError(
            f"{type(traced.model).__name__} cannot be written as ONNX: {cause} "
            "The format 'torch' keeps every operation of PyTorch."
        ) from err
    assert program is not None
    program.save(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(inputs: Inputs) -> list[Tensor]:
        given = [tensor.numpy() for tensor in tensors_of(arguments(inputs))]
        outputs = session.run(None, dict(zip(names, given, strict=True)))
        return [torch.from_numpy(output) for output in outputs]

    return run


def _extra(package: str) -> Any:  # noqa: ANN401 - a module
    """Import a package of the extra or say how to install it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as err:
        if err.name != package:
            raise
        raise LayerticketError(
            f'ONNX files need {package}: pip install "layerticket[onnx]"'
        ) from err


def _first_line(err: BaseException) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0]
