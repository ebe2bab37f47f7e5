"""Lets a network of Hugging Face's library come out of surgery as an ordinary one of its class.

What enters: a copy of the network whose blocks are gone, the dense network, the names of what is
gone. Kept entries of every list are numbered anew, in names as in attributes; the configuration
says what is left. No architecture is named: the class itself is built without memory from the
corrected configuration, and must give the modules, shapes and settings of the network that was
cut. Where it does not, the user is warned with the first difference.
"""

import copy
import logging
import re
import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from layerticket.blocks.numbering import Renaming, by_list, is_entry, pretrained, renaming, within
from layerticket.surgery.configuration import carry_over, shortened
from layerticket.view import preserved_random_state

__all__ = ["make_valid"]

logger = logging.getLogger(__name__)

INDEX = re.compile(r"(layer|block)_?(idx|index|id|number)|idx|index")
"""Attributes that hold the place of a layer."""
RATE = "drop_prob"
"""Attribute of stochastic depth; rates follow the depth of the network."""
TIES = "all_tied_weights_keys"
"""Attribute that names tied weights."""
Differences = dict[tuple[str, str], str]


def make_valid(small: nn.Module, dense: nn.Module, removed: Collection[str]) -> None:
    """Correct configuration and layer indices of every Hugging Face network inside `small`.

    Args:
        small: The network without the entries `removed`, renumbered; changed in place.
        dense: The network they were removed from; not modified.
        removed: Names of what was removed, as in `dense`.

    Warns:
        UserWarning: If no configuration of the class describes the smaller network: it runs and
            trains, but ``from_pretrained`` could not read what ``save_pretrained`` writes.
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
                "ticket: what save_pretrained writes of it, from_pretrained cannot read.",
                stacklevel=4,
            )


def _fit(small: Any, dense: Any, gone: dict[str, list[int]]) -> str:  # noqa: ANN401 - PreTrainedModel
    """Correct one network in place; return the empty string, or why it stays different."""
    renamed = renaming(gone)
    for container in gone:  # right for caches, whatever the configuration can say
        left = small.get_submodule(renamed(container))
        _number(left, dense.get_submodule(container), gone[container])
    try:
        before = _skeleton(type(dense), dense.config)
    except Exception as err:
        return f"the class cannot be built from the configuration alone ({_short(err)})"
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
            return f"nothing in it says how many entries {container!r} has"
        config = best[1]
    after = _skeleton(type(dense), config)
    counts = {(_length(before, name), length) for name, length in lengths.items()}
    _settle(small, before, after, renamed, counts)
    left = {key: text for key, text in _differences(small, after).items() if key not in known}
    return next((f"{name or 'the network'}: {text}" for (name, _), text in left.items()), "")


def _settle(
    small: Any,  # noqa: ANN401 - PreTrainedModel, as the next two
    before: Any,  # noqa: ANN401
    after: Any,  # noqa: ANN401
    renamed: Renaming,
    counts: set[tuple[int, int]],
) -> None:
    """Take over configurations, numbers of layers, rates of stochastic depth, names of ties."""
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
        if _is_rate(module, name) and type(module) is not type(skeletons[name]):
            fresh = copy.deepcopy(skeletons[name]).train(module.training)
            small.set_submodule(name, fresh, strict=True)


def _differences(net: nn.Module, skeleton: nn.Module) -> Differences:
    """Compare classes, shapes and settings module by module; indices and rates are left out."""
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
        spare = a.state_dict() or b.state_dict()  # without state, what only one knows is unused
        for what in (ours.keys() | theirs.keys()) if spare else theirs.keys():
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
    """Let every attribute that held the old place of an entry hold the new one."""
    old_places = [index for index in range(len(dense._modules)) if index not in gone]
    for new, (old, entry) in enumerate(zip(old_places, entries.children(), strict=True)):
        for module in entry.modules():
            for key, value in vars(module).items():
                if INDEX.fullmatch(key) and type(value) is int and value == old:
                    setattr(module, key, new)


def _skeleton(kind: type, config: Any) -> Any:  # noqa: ANN401 - PreTrainedModel
    """Build a class from a configuration as it would be read back from a file, without memory."""
    fresh = type(config).from_dict(config.to_dict())
    with warnings.catch_warnings(), preserved_random_state(0), torch.device("meta"):
        warnings.simplefilter("ignore")
        return kind(fresh)


def _skeleton_or_none(kind: type, config: Any) -> Any:  # noqa: ANN401 - PreTrainedModel or None
    """Build a class from a candidate; None where it is no valid configuration."""
    try:
        return _skeleton(kind, config)
    except Exception:  # a wrong candidate may break anywhere in the class's own code
        logger.debug("no %s of this configuration", kind.__name__, exc_info=True)
        return None


def _length(net: nn.Module, container: str) -> int:
    """Count the entries of a list; -1 where there is none of this name."""
    found = dict(net.named_modules()).get(container)
    return -1 if found is None else len(found._modules)


def _is_rate(module: nn.Module, name: str) -> bool:
    """Tell whether a module only drops: no state, and named after that."""
    key = name.rpartition(".")[2]
    return "drop" in key and not module.state_dict()


def _short(err: Exception) -> str:
    return f"{type(err).__name__}: {err}".splitlines()[0]
