"""Networks of timm and torchvision by name, at random initialization; nothing is downloaded."""

import difflib
import importlib
import inspect
import typing
from collections.abc import Callable, Iterable
from types import ModuleType

from torch import nn

from layerticket.errors import LayerticketError

__all__ = ["network_of", "timm_model", "torchvision_model"]

Options = dict[str, object]


def timm_model(name: str, classes: int, channels: int, options: Options) -> nn.Module:
    """Build a timm model without pretrained weights; names that need the network are refused."""
    timm = _extra("timm")
    if not timm.is_model(name):
        raise _unlisted("timm", name, timm.list_models())
    try:
        return network_of(
            timm.create_model(
                name, pretrained=False, num_classes=classes, in_chans=channels, **options
            ),
            name,
        )
    except (TypeError, AssertionError, RuntimeError) as err:
        raise _unbuildable(f"timm:{name}", classes, channels, err) from err


def torchvision_model(name: str, classes: int, channels: int, options: Options) -> nn.Module:
    """Build a torchvision classifier without weights (detectors would download a backbone)."""
    models = _extra("torchvision").models
    names = models.list_models(module=models)
    if name not in names:
        raise _unlisted("torchvision", name, names)
    if channels != 3:
        raise LayerticketError(
            f"'torchvision:{name}' takes images of 3 channels, these have {channels}. "
            "Use a resnet of this package, timm:NAME or a function of yours."
        )
    options = _undecided(models.get_model_builder(name)) | options
    try:
        return network_of(
            models.get_model(name, weights=None, num_classes=classes, **options), name
        )
    except (TypeError, AssertionError, RuntimeError) as err:
        raise _unbuildable(f"torchvision:{name}", classes, channels, err) from err


def _undecided(builder: Callable[..., object]) -> Options:
    """Say that weights are to be drawn where a class leaves it open, which warns of slowness."""
    built = typing.get_type_hints(builder).get("return")
    parameters = inspect.signature(built).parameters if isinstance(built, type) else {}
    asks = "init_weights" in parameters and parameters["init_weights"].default is None
    return {"init_weights": True} if asks else {}


def network_of(built: object, name: str) -> nn.Module:
    """Insist on a network."""
    if isinstance(built, nn.Module):
        return built
    raise LayerticketError(
        f"{name!r} returned a {type(built).__name__}; it must return a torch.nn.Module."
    )


def _extra(package: str) -> ModuleType:
    """Import an optional package or say how to install it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as err:
        if err.name != package:
            raise
        raise LayerticketError(
            f'{package} models need {package}: pip install "layerticket[{package}]"'
        ) from err


def _unlisted(source: str, name: str, names: Iterable[str]) -> LayerticketError:
    """Build the error for a name that a library does not have; its whole list would be too long."""
    near = difflib.get_close_matches(name, list(names), n=3)
    hint = f" Did you mean {' or '.join(repr(f'{source}:{n}') for n in near)}?" if near else ""
    return LayerticketError(
        f"model '{source}:{name}' is not known.{hint} "
        f"{source.capitalize()}'s own documentation lists what is available."
    )


def _unbuildable(name: str, classes: int, channels: int, err: Exception) -> LayerticketError:
    """Build the error for a model that does not take these classes and channels."""
    return LayerticketError(
        f"{name!r} cannot be built for {classes} classes and {channels} channels: {err}"
    )
