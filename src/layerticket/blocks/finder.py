"""Chooses the removable blocks among the modules that pass the zero-function test."""

from collections.abc import Iterator
from typing import Literal

from torch import nn

from layerticket.batch import Inputs
from layerticket.blocks.probe import Finding, probe, runs
from layerticket.blocks.records import Block, Blocks, Rejection
from layerticket.macs import count_params, module_macs
from layerticket.view import view_of

__all__ = ["find_blocks", "take_out"]

PART = "is a branch of a larger block, which must stay"


def find_blocks(model: nn.Module, example: Inputs) -> Blocks:
    """Find the removable residual blocks of any network; the model is not modified.

    Args:
        model: Any network that supports ``copy.deepcopy``.
        example: Inputs to call it on (a tensor, a tuple or a dict); one example is enough.

    Returns:
        Removable blocks in the order of execution, and the other candidates with the reason why
        each must stay. Plain networks have no removable block; that is a result, not an error.

    Raises:
        LayerticketError: If the model cannot be copied or does not run on `example`.
    """
    findings = probe(model, example)
    chosen = _outermost(model, {name for name, f in findings.items() if f.reason == ""})
    unsafe = _breaks_without(model, example, findings, chosen)
    macs = module_macs(model, example)
    blocks: list[Block] = []
    stages: dict[tuple[str, tuple[int, ...]], int] = {}
    for name in sorted(chosen - unsafe.keys(), key=lambda n: findings[n].order):
        finding, container = findings[name], name.rpartition(".")[0]
        blocks.append(
            Block(
                name=name,
                position=len(blocks),
                stage=stages.setdefault((container, finding.shape), len(stages)),
                shape=finding.shape,
                params=count_params(model.get_submodule(name)),
                macs=macs[name],
                call=finding.call,
                post_norm=finding.post_norm,
            )
        )
    rejected = [
        Rejection(name=name, reason=unsafe.get(name) or findings[name].reason or PART)
        for name in _other_candidates(model, findings, {block.name for block in blocks})
    ]
    return Blocks(
        removable=tuple(blocks),
        rejected=tuple(rejected),
        params=count_params(model),
        macs=macs[""],
    )


def take_out(model: nn.Module, name: str, how: Literal["plain", "rich"]) -> None:
    """Remove one block from a network the caller may change.

    A `plain` block is replaced by ``nn.Identity``, so every name and index stays. A `rich` one
    is deleted from its list; the other entries keep their names.
    """
    parent = model.get_submodule(name.rpartition(".")[0])
    key = name.rpartition(".")[2]
    if how == "plain":
        parent._modules[key] = nn.Identity()
    else:
        del parent._modules[key]


def _outermost(model: nn.Module, passing: set[str]) -> set[str]:
    """Choose blocks among modules that pass: the outermost, but look inside mere stages.

    A module whose weight matrices all lie in passing modules of one kind (or that is a plain
    sequence of passing modules) is a stage of blocks; one whose passing modules differ in kind
    (attention, then a multilayer perceptron) is a block with several branches.
    """
    chosen: set[str] = set()

    def descend(name: str) -> None:
        inner = _maximal({other for other in passing if _inside(other, name)})
        if name == "" or (inner and _is_stage(model, name, inner)):
            for child in inner:
                descend(child)
        else:
            chosen.add(name)

    descend("")
    classes = {type(model.get_submodule(name)) for name in chosen}
    return {  # no branches of a block whose like go whole
        name
        for name in chosen
        if not any(type(model.get_submodule(above)) in classes for above in _above(name))
    }


def _inside(name: str, ancestor: str) -> bool:
    return name != ancestor and (ancestor == "" or name.startswith(f"{ancestor}."))


def _maximal(names: set[str]) -> set[str]:
    """Keep the names that lie inside no other of the names."""
    return {name for name in names if not any(_ancestor in names for _ancestor in _above(name))}


def _above(name: str) -> Iterator[str]:
    """List the names of all modules that contain this one, the root `""` included."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def _is_stage(model: nn.Module, name: str, inner: set[str]) -> bool:
    module = model.get_submodule(name)
    held = {id(p) for child in inner for p in model.get_submodule(child).parameters()}
    held |= {id(p) for p in module.parameters(recurse=False)}  # a position embedding of its own
    covered = all(id(p) in held for p in module.parameters() if p.ndim > 1)
    kinds = {_kind(model.get_submodule(child)) for child in inner}
    return covered and (isinstance(module, nn.Sequential) or len(kinds) == 1)


def _kind(module: nn.Module) -> tuple[type, ...]:
    """Return the classes of a module and of all modules with weights in it, in order."""
    return tuple(type(m) for m in module.modules() if any(True for _ in m.parameters()))


def _breaks_without(
    model: nn.Module, example: Inputs, findings: dict[str, Finding], chosen: set[str]
) -> dict[str, str]:
    """Take blocks out for real and run; return the ones the model's own code does not run without.

    One forward pass for all blocks together; block by block only where that one fails.
    """

    def failure(names: set[str]) -> str:
        small = view_of(model).eval()
        for name in names:
            take_out(small, name, findings[name].call)
        return runs(small, example)

    if not chosen or not failure(chosen):
        return {}
    return {
        name: f"is needed by the model's own code, which fails without it: {reason}"
        for name in chosen
        if (reason := failure({name}))
    }


def _other_candidates(
    model: nn.Module, findings: dict[str, Finding], removable: set[str]
) -> list[str]:
    """List modules with inner weights that are neither removable nor part of what is."""
    kept_open = {above for name in removable for above in _above(name)} | {""}
    classes = {type(model.get_submodule(name)) for name in removable}
    candidates = {
        name
        for name, finding in findings.items()
        if name not in removable
        and name not in kept_open
        and not isinstance(model.get_submodule(name), (nn.ModuleList, nn.ModuleDict))
        and (finding.composite or type(model.get_submodule(name)) in classes)
        and not any(above in removable for above in _above(name))
    }
    return sorted(_maximal(candidates), key=lambda n: findings[n].order)
