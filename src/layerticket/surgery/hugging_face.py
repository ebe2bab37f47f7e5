"""Make a smaller Hugging Face network valid: renumber its layers and correct its configuration.

No architecture is known by name. The class is built from the corrected configuration, without
memory, and must have the modules, shapes and settings of the smaller network; if not, a warning
gives the first difference.
"""

import copy
import logging
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import reduce
from typing import Any

import torch
from torch import nn

from layerticket.errors import short
from layerticket.modules import preserved_random_state

logger = logging.getLogger(__name__)
INDEX = re.compile(r"(layer|block)_?(idx|index|id|number)|idx|index")
"""Attributes with the index of a layer."""
ABOUT_LAYERS = re.compile(r"layer|depth|block|stage|pattern|idx|indices")
RATE = "drop_prob"
"""Attribute of stochastic depth; rates depend on the depth of the network."""
TIES = "all_tied_weights_keys"
"""Attribute that names tied weights."""
Differences = dict[tuple[str, str], str]
Renaming = Callable[[str], str]


def is_entry(model: nn.Module, name: str) -> bool:
    """Whether a name is a numbered entry of a list inside a Hugging Face network."""
    container, _, key = name.rpartition(".")
    numbered = isinstance(model.get_submodule(container), (nn.ModuleList, nn.Sequential))
    return key.isdigit() and numbered and any(within(container, r) for r in pretrained(model))


def name_after_removal(model: nn.Module, removed: Iterable[str]) -> Renaming:
    """Return the function from dense names to names after `removed` is removed.

    Lists inside Hugging Face networks are renumbered without gaps; all other names stay.

    Args:
        model: The dense network, or the result of `remove_blocks`.
        removed: Names of removed blocks, as in the dense network.

    Example:
        >>> name_after_removal(nn.Sequential(nn.ReLU(), nn.ReLU()), ["0"])("1.weight")
        '1.weight'
    """
    return renaming(by_list(name for name in removed if is_entry(model, name)))


def renaming(gone: dict[str, list[int]]) -> Renaming:
    """Return the function that lowers every index in a name by the number removed below it."""

    def renamed(name: str) -> str:
        parts = name.split(".")
        return ".".join(
            str(int(part) - sum(index < int(part) for index in gone[before]))
            if part.isdigit() and (before := ".".join(parts[:place])) in gone
            else part
            for place, part in enumerate(parts)
        )

    return renamed


def close_gaps(small: nn.Module, removed: Iterable[str]) -> None:
    """Renumber without gaps the entries of each list that lost a block."""
    for container in sorted(by_list(removed), reverse=True):  # inner lists before outer ones
        entries = small.get_submodule(container)._modules
        left = list(entries.values())
        entries.clear()
        entries.update((str(index), module) for index, module in enumerate(left))


def pretrained(model: nn.Module) -> list[str]:
    """List the names of the outermost Hugging Face networks; the library is not imported."""
    library = sys.modules.get("transformers")
    if library is None:
        return []
    kinds = library.PreTrainedModel
    found = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    return [name for name in found if not any(within(name, o) for o in found if o != name)]


def by_list(names: Iterable[str]) -> dict[str, list[int]]:
    """Group entries by their list."""
    lists: dict[str, list[int]] = {}
    for name in names:
        container, _, key = name.rpartition(".")
        lists.setdefault(container, []).append(int(key))
    return lists


def within(name: str, ancestor: str) -> bool:
    """Whether a name is an ancestor or inside it."""
    return name == ancestor or ancestor == "" or name.startswith(f"{ancestor}.")


def make_valid(small: nn.Module, dense: nn.Module, removed: Collection[str]) -> None:
    """Correct configuration and layer indices of every Hugging Face network inside `small`.

    `small` is `dense` without the entries `removed`, renumbered; it is changed in place. If no
    configuration of the class describes it, a warning says so: it runs and trains, but
    ``from_pretrained`` cannot read the files of ``save_pretrained``.
    """
    for root in pretrained(small):
        start = len(root) + 1 if root else 0
        mine = [name[start:] for name in removed if within(name, root)]
        if not mine:
            continue
        entries = by_list(n for n in mine if is_entry(dense, f"{root}.{n}" if root else n))
        reason = _fit(small.get_submodule(root), dense.get_submodule(root), entries)
        if reason:
            warnings.warn(
                f"{type(small.get_submodule(root)).__name__} without {', '.join(mine)} runs and "
                f"trains, but no configuration of its class describes it: {reason}. Keep the "
                "ticket: from_pretrained cannot read the files that save_pretrained writes.",
                stacklevel=4,
            )


def _fit(small: Any, dense: Any, gone: dict[str, list[int]]) -> str:  # noqa: ANN401 - PreTrainedModel
    """Correct one network in place; return an empty string, or the remaining difference."""
    renamed = renaming(gone)
    for container in gone:  # caches need right indices even if no configuration fits
        left = small.get_submodule(renamed(container))
        _number(left, dense.get_submodule(container), gone[container])
    try:
        before = _skeleton(type(dense), dense.config)
    except Exception as err:
        said = f"{type(err).__name__}: {short(err)}"
        return f"the class cannot be built from the configuration alone ({said})"
    known = {(renamed(name), what) for name, what in _differences(dense, before)}
    config, lengths = small.config, {name: _length(dense, name) for name in gone}
    for container, indices in gone.items():
        total, lengths[container] = lengths[container], lengths[container] - len(indices)
        best: tuple[int, Any] | None = None
        for candidate in shortened(config, total, indices):
            after = _skeleton_or_none(type(dense), candidate)
            if after is None or any(_length(after, c) != n for c, n in lengths.items()):
                continue
            unlike = _differences(small, after).keys() - known
            count = sum(within(name, container) for name, _ in unlike)
            if best is None or count < best[0]:
                best = count, candidate
            if not count:
                break
        if best is None:
            return f"no field gives the number of entries of {container!r}"
        config = best[1]
    after = _skeleton(type(dense), config)
    counts = {(_length(before, name), length) for name, length in lengths.items()}
    _take_over(small, before, after, renamed, counts)
    left = {key: text for key, text in _differences(small, after).items() if key not in known}
    return next((f"{name or 'the network'}: {text}" for (name, _), text in left.items()), "")


def _take_over(
    small: Any,  # noqa: ANN401 - PreTrainedModel, as the next two
    before: Any,  # noqa: ANN401
    after: Any,  # noqa: ANN401
    renamed: Renaming,
    counts: set[tuple[int, int]],
) -> None:
    """Copy configurations, numbers of layers, drop-path rates and names of tied weights."""
    skeletons, modules = dict(after.named_modules()), dict(small.named_modules())
    for name, old in before.named_modules():
        new: Any = skeletons.get(renamed(name))
        mine: Any = modules.get(renamed(name))
        if type(new) is not type(old) or type(mine) is not type(old):
            continue
        if hasattr(mine, "config"):
            carry_over(mine.config, old.config, new.config)
        for key, value in vars(new).items():
            was = vars(old).get(key)
            moved = type(value) is int and (was, value) in counts
            if moved or (key in (RATE, TIES) and value != was):
                setattr(mine, key, copy.deepcopy(value))
    for name, module in modules.items():
        if name not in skeletons or not _is_rate(module, name):
            continue  # the caller's own modules are kept
        above = name.rpartition(".")[0]
        library = type(modules[above]) is type(skeletons[above])
        if library and type(module) is not type(skeletons[name]):
            fresh = copy.deepcopy(skeletons[name]).train(module.training)
            small.set_submodule(name, fresh, strict=True)


def _differences(net: nn.Module, skeleton: nn.Module) -> Differences:
    """Compare classes, shapes and settings module by module, except indices and rates."""
    mine, built = dict(net.named_modules()), dict(skeleton.named_modules())
    found: Differences = {}
    for name in [*mine, *(name for name in built if name not in mine)]:
        if name not in mine or name not in built:
            found[name, "module"] = "is in only one of the two"
            continue
        a, b = mine[name], built[name]
        if type(a) is not type(b):
            if not _is_rate(a, name):
                found[name, "class"] = f"is a {type(a).__name__}, not a {type(b).__name__}"
            continue
        ours, theirs = _settings(a), _settings(b)
        has_state = a.state_dict() or b.state_dict()  # without state, extra attributes are unused
        for what in (ours.keys() | theirs.keys()) if has_state else theirs.keys():
            if ours.get(what) != theirs.get(what):
                found[name, what] = f"{what} is {ours.get(what)}, not {theirs.get(what)}"
    return found


def _settings(module: nn.Module) -> dict[str, object]:
    """Return the shapes of a module's own tensors and its plain public attributes."""
    plain = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, (bool, int, float, str, type(None)))
        and not key.startswith("_")
        and key not in ("training", RATE)
        and not INDEX.fullmatch(key)
    }
    own = {**module._parameters, **module._buffers}
    return plain | {key: None if t is None else tuple(t.shape) for key, t in own.items()}


def _number(entries: nn.Module, dense: nn.Module, gone: list[int]) -> None:
    """Set every attribute with the old index of an entry to the new one."""
    old_places = [index for index in range(len(dense._modules)) if index not in gone]
    for new, (old, entry) in enumerate(zip(old_places, entries.children(), strict=True)):
        for module in entry.modules():
            for key, value in vars(module).items():
                if INDEX.fullmatch(key) and type(value) is int and value == old:
                    setattr(module, key, new)


def _skeleton(kind: type, config: Any) -> Any:  # noqa: ANN401 - PreTrainedModel
    """Build a class from a configuration, as read from a file, without memory."""
    fresh = type(config).from_dict(config.to_dict())
    with warnings.catch_warnings(), preserved_random_state(0), torch.device("meta"):
        warnings.simplefilter("ignore")
        return kind(fresh)


def _skeleton_or_none(kind: type, config: Any) -> Any:  # noqa: ANN401 - PreTrainedModel or None
    """Build a class from a candidate; None if the configuration is invalid."""
    try:
        return _skeleton(kind, config)
    except Exception:  # a wrong candidate may fail anywhere in the class
        logger.debug("no %s of this configuration", kind.__name__, exc_info=True)
        return None


def _length(net: nn.Module, container: str) -> int:
    """Count the entries of a list; -1 if there is no such list."""
    found = dict(net.named_modules()).get(container)
    return -1 if found is None else len(found._modules)


def _is_rate(module: nn.Module, name: str) -> bool:
    """Whether a module only does drop-path: it has no state, and a name of that kind."""
    key = name.rpartition(".")[2]
    return "drop" in key and not module.state_dict()


def shortened(config: Any, total: int, gone: Sequence[int]) -> Iterator[Any]:  # noqa: ANN401
    """Yield candidate configurations of the network without some layers.

    In each copy one number n, the `total` of entries in the dense network, becomes m (a field, or
    a member of a list such as ``depths``), and fields with a value per layer, or with layer
    indices, lose the entries `gone`: first those named after layers, then all, then none.
    """
    for path, field, member in _counts(config, total):
        for pattern in (ABOUT_LAYERS, re.compile(""), None):
            candidate = copy.deepcopy(config)
            part = reduce(getattr, path, candidate)
            if pattern is not None:
                _drop_entries(part, pattern, total, gone, unchanged=field)
            left = total - len(gone)
            if member is None:
                setattr(part, field, left)
            else:
                values = list(getattr(part, field))
                values[member] = left
                setattr(part, field, type(getattr(part, field))(values))
            yield candidate


def carry_over(target: Any, before: Any, after: Any) -> None:  # noqa: ANN401 - configurations
    """Copy from `after` to a configuration every field in which `before` and `after` differ."""
    for field, value in vars(after).items():
        old = vars(before).get(field)
        if _is_config(value) and _is_config(old) and _is_config(vars(target).get(field)):
            carry_over(vars(target)[field], old, value)
        elif not _is_config(value) and old != value:
            vars(target)[field] = copy.deepcopy(value)


def _counts(config: Any, total: int) -> list[tuple[tuple[str, ...], str, int | None]]:  # noqa: ANN401
    """List the places of n: path of the part, field, index in the field's list or None."""
    found: list[tuple[tuple[str, ...], str, int | None]] = []

    def visit(part: Any, path: tuple[str, ...]) -> None:  # noqa: ANN401 - a configuration
        for field, value in vars(part).items():
            if field.startswith("_"):
                continue
            if _is_config(value):
                visit(value, (*path, field))
            elif type(value) is int and value == total:
                found.append((path, field, None))
            elif isinstance(value, (list, tuple)):
                found.extend(
                    (path, field, member)
                    for member, entry in enumerate(value)
                    if type(entry) is int and entry == total
                )

    visit(config, ())
    return sorted(found, key=lambda place: ABOUT_LAYERS.search(place[1]) is None)


def _drop_entries(
    part: Any,  # noqa: ANN401 - a configuration
    named: re.Pattern[str],
    total: int,
    gone: Sequence[int],
    *,
    unchanged: str,
) -> None:
    """Shorten lists with an entry per layer; renumber lists of layers and hidden states."""
    stages = getattr(part, "stage_names", None) or ()
    for field, value in list(vars(part).items()):
        if field == unchanged or not isinstance(value, (list, tuple)) or not named.search(field):
            continue
        kept: list[Any] | None = None
        if field == "stage_names" and len(value) == total + 1:
            kept = list(value[: total + 1 - len(gone)])
        elif field in ("_out_indices", "_out_features") and len(stages) == total + 1:
            kept = [_renumbered_state(entry, stages, gone) for entry in value]
        elif len(value) == total and list(value) != list(range(total)):
            kept = [entry for index, entry in enumerate(value) if index not in gone]
        elif _are_indices(value, total):
            kept = [i - sum(g < i for g in gone) for i in value if i not in gone]
        if kept is not None:
            setattr(part, field, type(value)(kept))


def _renumbered_state(
    entry: Any,  # noqa: ANN401 - a name or an index
    stages: Sequence[str],
    gone: Sequence[int],
) -> Any:  # noqa: ANN401
    """Return the new index or name of the output of a layer among the hidden states."""
    index = stages.index(entry) if isinstance(entry, str) else entry % len(stages)
    renumbered = index - sum(layer < index for layer in gone)
    return stages[renumbered] if isinstance(entry, str) else renumbered


def _are_indices(value: Sequence[Any], total: int) -> bool:
    return (
        all(type(entry) is int and 0 <= entry < total for entry in value)
        and len(set(value)) == len(value) > 0
    )


def _is_config(value: object) -> bool:
    return hasattr(value, "to_dict") and hasattr(value, "model_type")
