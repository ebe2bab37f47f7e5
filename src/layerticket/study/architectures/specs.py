"""Which architectures are examined. Enters: a TOML file. Leaves: specifications, and networks.

The names live in the file, none of them here.
"""

import importlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerticket.batch import Inputs
from layerticket.errors import LayerticketError
from layerticket.models.load import build_model
from layerticket.modules import preserved_random_state

__all__ = ["Spec", "build", "read_specs"]

CLASSES = 10
TOKENS = 90
"""Token identifiers are drawn below this number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """One network and the shapes of what it is called on."""

    name: str
    """``library:NAME``."""
    inputs: dict[str, list[int]]
    """Shape by name of the argument; an image network's only argument is called ``images``."""
    config: dict[str, Any] | None = None
    """Settings of a network that is built from a configuration class."""

    @property
    def library(self) -> str:
        """The package it comes from."""
        return self.name.partition(":")[0]


def read_specs(path: Path) -> tuple[Spec, ...]:
    """Read a file of architectures.

    Args:
        path: TOML with a table for each library: ``[timm]`` and ``[torchvision]`` map names to
            the side of their images; ``[[transformers]]`` have ``class``, ``config`` and
            ``inputs`` (shape by name).

    Raises:
        LayerticketError: If the file cannot be read, is not of this form, or names one twice.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        specs = [
            Spec(name=f"{library}:{name}", inputs={"images": [1, 3, side, side]})
            for library in ("timm", "torchvision")
            for name, side in table.pop(library, {}).items()
        ]
        specs += [
            Spec(name=f"transformers:{e['class']}", inputs=e["inputs"], config=e["config"])
            for e in table.pop("transformers", [])
        ]
    except (OSError, tomllib.TOMLDecodeError, KeyError, AttributeError) as err:
        raise LayerticketError(
            f"{path} is no list of architectures ({type(err).__name__}: {err}); see "
            "benchmarks/architectures.toml for the form."
        ) from err
    names = [spec.name for spec in specs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if table or twice:
        raise LayerticketError(
            f"{path}: unknown tables {sorted(table)}, names given twice {twice}. Allowed are the "
            "tables timm, torchvision and transformers, each name once."
        )
    return tuple(specs)


def build(spec: Spec) -> tuple[nn.Module, Inputs]:
    """Build an untrained network in evaluation mode, and one example for it.

    Raises:
        LayerticketError: If its library does not know it or cannot build it.
    """
    if spec.config is None:
        model = build_model(spec.name, classes=CLASSES, channels=3, seed=0).eval()
    else:
        model = _from_config(spec.name.partition(":")[2], spec.config).eval()
    generator = torch.Generator().manual_seed(0)
    drawn = {name: _draw(name, shape, generator) for name, shape in spec.inputs.items()}
    return model, drawn.get("images", drawn)


def _from_config(name: str, config: dict[str, Any]) -> nn.Module:
    """Build a network of the transformers library at random from the settings of its class."""
    library = importlib.import_module("transformers")
    kind = getattr(library, name, None)
    if kind is None:
        raise LayerticketError(
            f"transformers {library.__version__} has no class {name!r}; correct its name in the "
            "list of architectures, or install the version that has it."
        )
    with preserved_random_state(0):
        network: nn.Module = kind(kind.config_class(**config))
    return network


def _draw(name: str, shape: list[int], generator: torch.Generator) -> Tensor:
    """Draw an input: whole numbers for identifiers and masks, else standard normal."""
    if name.endswith("mask"):
        return torch.ones(shape, dtype=torch.long)
    if name.endswith("ids"):
        return torch.randint(3, TOKENS, shape, generator=generator)
    return torch.randn(shape, generator=generator)
