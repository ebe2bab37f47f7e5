"""Names in networks of Hugging Face's library, whose lists are numbered without gaps.

Everything else in the package asks here whether a name is an entry of such a list, and what it is
called when entries before it are gone.
"""

import sys
from collections.abc import Callable, Iterable

from torch import nn

__all__ = [
    "Renaming",
    "by_list",
    "close_gaps",
    "is_entry",
    "name_after_removal",
    "pretrained",
    "renaming",
    "within",
]

Renaming = Callable[[str], str]


def is_entry(model: nn.Module, name: str) -> bool:
    """Tell whether a name is that of a numbered entry of a list inside a Hugging Face network."""
    container, _, key = name.rpartition(".")
    numbered = isinstance(model.get_submodule(container), (nn.ModuleList, nn.Sequential))
    return key.isdigit() and numbered and any(within(container, r) for r in pretrained(model))


def name_after_removal(model: nn.Module, removed: Iterable[str]) -> Renaming:
    """Return the function from names in the dense network to names in the one without `removed`.

    Lists inside Hugging Face networks are numbered without gaps, as their classes name them;
    every other name stays.

    Args:
        model: The dense network, or what `remove_blocks` made of it.
        removed: Names of removed blocks, as in the dense network.

    Example:
        >>> name_after_removal(nn.Sequential(nn.ReLU(), nn.ReLU()), ["0"])("1.weight")
        '1.weight'
    """
    return renaming(by_list(name for name in removed if is_entry(model, name)))


def close_gaps(small: nn.Module, removed: Iterable[str]) -> None:
    """Number the entries that are left of each list a block was taken from without gaps."""
    for container in sorted(by_list(removed), reverse=True):  # inner lists before outer ones
        entries = small.get_submodule(container)._modules
        left = list(entries.values())
        entries.clear()
        entries.update((str(index), module) for index, module in enumerate(left))


def pretrained(model: nn.Module) -> list[str]:
    """List the outermost networks of Hugging Face's library by name; it is never imported here."""
    library = sys.modules.get("transformers")
    if library is None:
        return []
    kinds = library.PreTrainedModel
    found = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    return [name for name in found if not any(within(name, o) for o in found if o != name)]


def by_list(names: Iterable[str]) -> dict[str, list[int]]:
    """Group entries by the list they are of."""
    lists: dict[str, list[int]] = {}
    for name in names:
        container, _, key = name.rpartition(".")
        lists.setdefault(container, []).append(int(key))
    return lists


def renaming(gone: dict[str, list[int]]) -> Renaming:
    """Return the function that moves every index in a name down by what is gone below it."""

    def renamed(name: str) -> str:
        parts = name.split(".")
        return ".".join(
            str(int(part) - sum(index < int(part) for index in gone[before]))
            if part.isdigit() and (before := ".".join(parts[:place])) in gone
            else part
            for place, part in enumerate(parts)
        )

    return renamed


def within(name: str, ancestor: str) -> bool:
    """Tell whether a name is an ancestor's or lies below it."""
    return name == ancestor or ancestor == "" or name.startswith(f"{ancestor}.")
