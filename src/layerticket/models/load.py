"""Build a newly initialized network by name; weights are loaded only if asked for."""

import ast
import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType

from torch import nn

from layerticket.errors import (
    LayerticketError,
    ModelError,
    current_folder_importable,
    imported,
    need,
    unknown_name,
)
from layerticket.models.cifar_resnet import CifarResNet
from layerticket.models.hugging_face import hugging_face_model
from layerticket.models.names import PROJECTION, check_model_name, model_names
from layerticket.modules import preserved_random_state

Options = dict[str, object]
_TRAINED = {
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
}
"""Options of timm that read trained weights; older releases run code that a checkpoint holds."""
OFFERED: Mapping[str, object] = {"num_classes": 10, "in_channels": 3, "seed": 0}
"""Parameters that a function that builds a network may have."""


def build_model(name: str, *, classes: int, channels: int, seed: int) -> nn.Module:
    """Build an untrained network whose weights depend only on `seed`.

    The global random states of Python, NumPy and PyTorch are restored.

    Args:
        name: ``resnet32`` and similar (identity shortcuts), ``resnet32-projection``,
            ``timm:NAME``, ``torchvision:NAME``, ``hf:CONFIG-OR-FOLDER`` for a ``config.json`` of
            Hugging Face's library (see `hugging_face_model` for its options `task` and
            `weights`), or ``package.module:function`` for a function that returns a network; the
            current directory is importable. The function gets ``num_classes``, ``in_channels`` and
            ``seed`` if it has parameters of these names. Options follow a comma:
            ``timm:resnet18,zero_init_last=False``.
        classes: Number of outputs, at least 1.
        channels: Channels of the images, at least 1.
        seed: Seed of the initial weights, at least 0.

    Raises:
        LayerticketError: If the name is unknown, its package is not installed, the network
            cannot be built for these classes and channels, or a number is out of range.

    Example:
        >>> model = build_model("resnet20", classes=10, channels=1, seed=0)
        >>> sum(parameter.numel() for parameter in model.parameters())
        269434
    """
    for label, value, least in (("classes", classes, 1), ("channels", channels, 1)):
        if value < least:
            raise LayerticketError(f"{label} is {value}; it must be at least {least}.")
    if not 0 <= seed < 2**63:
        raise LayerticketError(f"seed is {seed}; it must be at least 0 and below 2**63.")
    source, colon, rest = name.partition(":")
    with preserved_random_state(seed):
        if not colon:
            return _cifar_resnet(name, classes, channels)
        target, options = _options(rest, name)
        if source == "timm":
            return _timm_model(target, classes, channels, options)
        if source == "hf":
            return hugging_face_model(target, classes=classes, channels=channels, options=options)
        if source == "torchvision":
            return _torchvision_model(target, classes, channels, options)
        offered: Options = {"num_classes": classes, "in_channels": channels, "seed": seed}
        return _from_function(source, target, offered, options)


def _options(rest: str, name: str) -> tuple[str, dict[str, object]]:
    """Split ``NAME,key=value,...``; values are Python literals, or otherwise text.

    `literal_eval` reads numbers, texts and containers of these; it calls and imports nothing.
    """
    target, *pairs = rest.split(",")
    options: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise LayerticketError(
                f"model {name!r}: {pair!r} is not an option; write NAME,key=value,key=value."
            )
        try:
            options[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[key] = text
        except (TypeError, MemoryError, RecursionError) as err:
            raise LayerticketError(
                f"model {name[:60]!r}: the value of {key} cannot be read ({type(err).__name__}). "
                "Give a number, True, False, None or a text."
            ) from err
    return target, options


def _cifar_resnet(name: str, classes: int, channels: int) -> nn.Module:
    """Build one of the networks of this package."""
    check_model_name(name)
    depth = int(name.removesuffix(PROJECTION).removeprefix("resnet"))
    projection = name.endswith(PROJECTION)
    return CifarResNet(depth, classes=classes, channels=channels, projection=projection)


def _timm_model(name: str, classes: int, channels: int, options: Options) -> nn.Module:
    """Build a timm model without pretrained weights; raise for names that need a download."""
    timm = _timm_with(name)
    if trained := sorted(_TRAINED & options.keys()):
        raise LayerticketError(
            f"'timm:{name}' is built with initial weights, so {trained[0]} cannot be given. Leave "
            "it out; for trained weights, build the network yourself and give it to layerticket."
        )
    try:
        built = timm.create_model(
            name, pretrained=False, num_classes=classes, in_chans=channels, **options
        )
    except (TypeError, ValueError, AssertionError, RuntimeError) as err:
        raise _unbuildable(f"timm:{name}", classes, channels, err) from err
    return _network_of(built, name)


def _torchvision_model(name: str, classes: int, channels: int, options: Options) -> nn.Module:
    """Build a torchvision classifier without weights (detectors would download a backbone)."""
    models = _torchvision_with(name)
    if channels != 3:
        raise LayerticketError(
            f"'torchvision:{name}' takes images with 3 channels, but these have {channels}. "
            "Use a resnet of this package, timm:NAME or your own function."
        )
    options = _init_option(models.get_model_builder(name)) | options
    try:
        built = models.get_model(name, weights=None, num_classes=classes, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError) as err:
        raise _unbuildable(f"torchvision:{name}", classes, channels, err) from err
    return _network_of(built, name)


def _timm_with(name: str) -> ModuleType:
    """Return timm, which must have a network of this name."""
    timm: ModuleType = need("timm", extra="timm", why="timm models need timm")
    if not timm.is_model(name):
        raise _unlisted("timm", name, timm.list_models())
    return timm


def _torchvision_with(name: str) -> ModuleType:
    """Return torchvision's models, which must have a network of this name."""
    library = need("torchvision", extra="torchvision", why="torchvision models need torchvision")
    models: ModuleType = library.models
    names: list[str] = models.list_models(module=models)
    if name not in names:
        raise _unlisted("torchvision", name, names)
    return models


def _init_option(builder: Callable[..., object]) -> Options:
    """Return the option that initializes weights, for classes that warn if it is not given."""
    built = typing.get_type_hints(builder).get("return")
    parameters = inspect.signature(built).parameters if isinstance(built, type) else {}
    warns = "init_weights" in parameters and parameters["init_weights"].default is None
    return {"init_weights": True} if warns else {}


def stated_shape(name: str) -> tuple[int, int, int] | None:
    """Return the input shape (C, H, W) that a network of timm or torchvision is configured for.

    If a network has several published sets of weights, the smallest input is returned: networks
    without weights are built for it. Options such as ``img_size`` and ``image_size`` override it.
    None for other networks, and for those without a configured shape.

    Raises:
        LayerticketError: If the library is not installed or has no such network, or the size
            of the images is not a whole number.

    Example:
        >>> stated_shape("timm:vit_tiny_patch16_224")
        (3, 224, 224)
    """
    source, _, rest = name.partition(":")
    if source not in ("timm", "torchvision"):
        return None
    target, options = _options(rest, name)
    given = options.get("img_size", options.get("image_size"))
    if source == "timm":
        stated = _timm_with(target).get_pretrained_cfg(target)
        shape = None if stated is None else tuple(stated.input_size)
    else:
        weights = _torchvision_with(target).get_model_weights(target)
        sides = [w.transforms().crop_size[0] for w in weights]
        shape = (3, min(sides), min(sides)) if sides else None
    if given is None:
        return shape
    if type(given) is not int or given < 1:
        raise LayerticketError(
            f"model {name!r}: {given!r} is not the side of an image. Give a whole number of "
            "pixels, such as 224."
        )
    return 3 if shape is None else shape[0], given, given


def _network_of(built: object, name: str) -> nn.Module:
    """Return the built object; raise if it is not a network."""
    if isinstance(built, nn.Module):
        return built
    raise LayerticketError(
        f"{name!r} returned a {type(built).__name__}; it must return a torch.nn.Module."
    )


def _unlisted(source: str, name: str, names: Iterable[str]) -> LayerticketError:
    """Return the error for an unknown name of a library, without its long list of names."""
    near = difflib.get_close_matches(name, list(names), n=3)
    hint = f" Did you mean {' or '.join(repr(f'{source}:{n}') for n in near)}?" if near else ""
    return LayerticketError(
        f"model '{source}:{name}' is not known.{hint} "
        f"See {source.capitalize()}'s documentation for available names."
    )


def _unbuildable(name: str, classes: int, channels: int, err: Exception) -> LayerticketError:
    """Return the error for a model that cannot have these classes and channels."""
    return LayerticketError(
        f"{name!r} cannot be built for {classes} classes and {channels} channels: {err}"
    )


def accepted(
    function: Callable[..., object], offered: Mapping[str, object], name: str
) -> dict[str, object]:
    """Return the offered arguments for which a function has parameters.

    Raises:
        LayerticketError: If it needs other arguments.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    missing = [
        p.name
        for p in parameters.values()
        if p.default is p.empty
        and p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}
        and (p.name not in offered or p.kind is p.POSITIONAL_ONLY)
    ]
    if missing:
        raise LayerticketError(
            f"{name!r} needs {', '.join(missing)}, which cannot be given here. Write a "
            "function that needs at most num_classes, in_channels and seed."
        )
    return {key: value for key, value in offered.items() if key in parameters}


def _from_function(
    module_name: str, function_name: str, offered: Options, options: Options
) -> nn.Module:
    """Import a module and call one of its functions."""
    full = f"{module_name}:{function_name}"
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise unknown_name("model", full, model_names())
    with current_folder_importable():  # the function may import too
        module = imported(
            module_name, f"model {full!r}", hint=f" Available: {', '.join(model_names())}."
        )
        function = _attribute(module, function_name, full)
        given = accepted(function, offered | options, full)
        try:
            built = function(**given | options)
        except SystemExit as err:
            raise ModelError(
                f"{full!r} ended the program ({err}) instead of returning a network."
            ) from err
        return _network_of(built, full)


def _attribute(module: ModuleType, function_name: str, full: str) -> Callable[..., object]:
    """Return a callable of a module."""
    found = getattr(module, function_name, None)
    if inspect.isbuiltin(found) or isinstance(found, types.BuiltinMethodType):
        raise LayerticketError(
            f"{full!r} is a built-in function, which cannot build a network. Give a function or a "
            "class written in Python that returns a torch.nn.Module."
        )
    if callable(found):
        return found  # type: ignore[no-any-return]  # whatever the module holds
    names = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
    raise unknown_name(f"function of {module.__name__!r} in model", full.partition(":")[2], names)
