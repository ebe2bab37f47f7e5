"""Names of the networks of this package; for other names, errors that give the right source."""

import difflib
import importlib
import importlib.util
import re

from layerticket.errors import LayerticketError, unknown_name

DEPTHS = (14, 20, 32, 44, 56, 110, 1202)
PROJECTION = "-projection"
OTHER_SOURCES = ("timm:NAME", "torchvision:NAME", "hf:CONFIG-OR-FOLDER", "package.module:function")
_IMAGENET_DEPTHS = (18, 34, 50, 101, 152)  # networks named resnetN in both libraries


def model_names() -> tuple[str, ...]:
    """List the names that `build_model` takes: own names, then the forms of other sources."""
    own = [f"resnet{depth}{suffix}" for suffix in ("", PROJECTION) for depth in DEPTHS]
    return (*own, *OTHER_SOURCES)


def check_model_name(name: str) -> None:
    """Raise if a name without a source is not one of this package.

    Raises:
        LayerticketError: With the source, if timm or torchvision has such a network.

    Example:
        >>> check_model_name("resnet20")
    """
    own = model_names()
    if ":" in name or name in own:
        return
    depth = re.fullmatch(r"resnet(\d{1,6})(-projection)?", name)
    is_slip = bool(difflib.get_close_matches(name, own, n=1, cutoff=0.85))
    if depth is not None:
        imagenet = int(depth[1]) in _IMAGENET_DEPTHS and not depth[2]
        found = [f"timm:{name}", f"torchvision:{name}"] if imagenet else []
    else:
        found = [] if is_slip else _elsewhere(name)
    if found:
        raise LayerticketError(
            f"model {name!r} is not from this package. Give its source: {' or '.join(found)}."
        )
    raise unknown_name("model", name, own)


def _elsewhere(name: str) -> list[str]:
    """Return the full names of a network in the installed libraries."""
    found = []
    if importlib.util.find_spec("timm") is not None:
        timm = importlib.import_module("timm")
        found += [f"timm:{name}"] if timm.is_model(name) else []
    if importlib.util.find_spec("torchvision") is not None:
        models = importlib.import_module("torchvision").models
        known = name in models.list_models(module=models)
        found += [f"torchvision:{name}"] if known else []
    return found
