"""Build Hugging Face networks from a configuration on disk, without downloads."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from layerticket.errors import LayerticketError, need, unknown_name
from layerticket.files import read_json

TASKS = {
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "image-classification": "AutoModelForImageClassification",
    "base": "AutoModel",
}
CONFIG = "config.json"
OURS = ("task", "weights", "dtype")


def hugging_face_model(
    path: str, *, classes: int, channels: int, options: Mapping[str, object]
) -> nn.Module:
    """Build a network from a ``config.json``; weights are read only if asked for.

    Args:
        path: The file, or its folder.
        classes: Outputs of a classifier; language models keep their vocabulary.
        channels: Channels of the images, if the network takes images.
        options: `task`, a key of `TASKS` (default: the class in the configuration);
            `weights=True` to read the weights in the same folder, except a new classifier;
            `dtype` of the weights (default float32); and fields of the configuration.

    Raises:
        LayerticketError: If there is no such file, a task or field is unknown, the class cannot
            be built, or weights other than those of the head are missing.
    """
    transformers = need("transformers", extra="transformers", why="hf: models need transformers")
    file = _config_file(path)
    record, fields = read_json(file), {k: v for k, v in options.items() if k not in OURS}
    kind = _kind(transformers, record, options.get("task"), path)
    known = _configuration(transformers, record, path)
    if "Classification" in kind.__name__:
        fields = {"num_labels": classes} | fields
    if hasattr(known, "num_channels"):
        fields = {"num_channels": channels} | fields
    if unknown := sorted(set(fields) - {*vars(known), *known.attribute_map, "num_labels"}):
        raise unknown_name(f"option of 'hf:{path}'", unknown[0], {*OURS, *known.to_dict()})
    # Names of labels may contradict the given number of labels.
    named = {key: value for key, value in record.items() if key not in ("id2label", "label2id")}
    config = _configuration(transformers, named | fields, path)
    dtype = _dtype(options.get("dtype", "float32"))
    weights = options.get("weights", False)
    if weights not in (True, False):
        raise LayerticketError(f"weights is {weights!r}; allowed are True and False.")
    try:
        if weights:
            return _loaded(kind, file.parent, config, dtype)
        build = getattr(kind, "from_config", None) or kind._from_config
        return build(config, dtype=dtype)  # type: ignore[no-any-return]  # untyped library
    except pickle.UnpicklingError as err:
        raise LayerticketError(
            f"'hf:{path}': its pickled weights hold more than weights, which could run code; they "
            "were not loaded. Save them as safetensors."
        ) from err
    except (TypeError, ValueError, RuntimeError, OSError, ImportError, KeyError) as err:
        raise LayerticketError(f"'hf:{path}' cannot be built: {_one_line(err)}") from err


def _config_file(path: str) -> Path:
    """Return the path of the configuration; names of the hub are not looked up."""
    file = Path(path) / CONFIG if Path(path).is_dir() else Path(path)
    if path and file.is_file():
        return file
    raise LayerticketError(
        f"'hf:{path}': there is no {file}. Give a {CONFIG} or a folder with one; nothing is "
        f"downloaded. To get one: hf download OWNER/NAME {CONFIG} --local-dir FOLDER."
    )


def _kind(transformers: Any, record: Mapping[str, Any], task: object, path: str) -> Any:  # noqa: ANN401
    """Return the class of the task, or the one in the configuration."""
    if task is not None:
        if task not in TASKS:
            raise unknown_name("task", str(task), TASKS)
        return getattr(transformers, TASKS[str(task)])
    named = record.get("architectures") or []
    kind = getattr(transformers, named[0], None) if named else None
    if kind is None:
        raise LayerticketError(
            f"the configuration of 'hf:{path}' names {named[0] if named else 'no class'}, which "
            f"transformers does not have. Give the task: hf:{path},task=TASK; allowed: "
            f"{', '.join(TASKS)}."
        )
    return kind


def _configuration(transformers: Any, record: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401
    """Build the configuration's own class from its fields."""
    fields = dict(record)
    kind = fields.pop("model_type", None)
    try:
        return transformers.AutoConfig.for_model(kind, **fields)
    except Exception as err:  # each class validates in its own way
        raise LayerticketError(
            f"'hf:{path}' is not a valid configuration of model_type {kind!r}: {_one_line(err)}"
        ) from err


def _dtype(name: object) -> torch.dtype:
    found = getattr(torch, str(name), None)
    if isinstance(found, torch.dtype) and found.is_floating_point:
        return found
    raise LayerticketError(f"dtype is {name!r}; allowed are float32, bfloat16, float16, float64.")


def _loaded(kind: Any, folder: Path, config: Any, dtype: torch.dtype) -> nn.Module:  # noqa: ANN401
    """Read the weights; only those of a head may be newly initialized."""
    model, loading = kind.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        local_files_only=True,
        weights_only=True,  # a pickled checkpoint runs no code
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    drawn = {*loading["missing_keys"], *(key[0] for key in loading["mismatched_keys"])}
    body = f"{model.base_model_prefix}."
    if lost := sorted(k for k in drawn if k.startswith(body) or model.base_model is model):
        raise LayerticketError(
            f"the weights in {folder} do not fit: {lost[0]} is missing or has another shape "
            f"({len(lost)} in total). Leave out weights=True, or do not change fields of the body."
        )
    assert isinstance(model, nn.Module)
    return model


def _one_line(err: Exception) -> str:
    return " ".join(str(err).split()) or type(err).__name__
