"""Chooses the removable blocks among the modules that pass the zero-function test."""

from collections.abc import Collection, Iterator
from dataclasses import replace

import torch
from torch import nn

from layerticket.batch import Inputs, call
from layerticket.blocks.block import Block, Blocks, Granularity, Rejection
from layerticket.blocks.branches import Part, find_parts
from layerticket.blocks.probe import FURTHER, NO_TENSOR, Finding, needed_outputs, probe, runs
from layerticket.counting import count_params, module_macs
from layerticket.errors import LayerticketError
from layerticket.modules import network_of, reference_kernels, view_of
from layerticket.surgery.remove import remove_from

PART = "is a branch of a larger block, which must stay"


def find_blocks(model: nn.Module, example: Inputs, *, granularity: Granularity = "block") -> Blocks:
    """Find the removable residual blocks of any network; the model is not modified.

    Args:
        model: Any network that supports ``copy.deepcopy``.
        example: Inputs to call it on (a tensor, a tuple or a dict); one example is enough.
        granularity: `block`: a block goes as a whole; `branch`: where a block has several
            residual branches (attention, then a multilayer perceptron), each can go by itself.

    Returns:
        Removable blocks in the order of execution, and the other candidates with the reason why
        each must stay. Plain networks have no removable block; that is a result, not an error.

    Raises:
        LayerticketError: If the model cannot be copied or does not run on `example`, or
            `granularity` is neither.
    """
    if granularity not in ("block", "branch"):
        raise LayerticketError(f"granularity is {granularity!r}; allowed are 'block' and 'branch'.")
    model = network_of(model)
    findings, macs = probe(model, example), module_macs(model, example)
    unsure = {name for name, finding in findings.items() if finding.reason == FURTHER}
    for name in unsure - needed_outputs(model, example, unsure):
        findings[name].reason = ""
    passing = {name for name, finding in findings.items() if finding.reason == ""}
    chosen = sorted(_outermost(model, passing), key=lambda name: findings[name].order)
    candidates = [_block(model, name, findings[name], macs[name]) for name in chosen]
    unsafe = _breaks_without(model, example, candidates)
    blocks = tuple(block for block in candidates if block.name not in unsafe)
    names = {block.name for block in blocks}
    rejected = [
        Rejection(name=name, reason=unsafe.get(name) or findings[name].reason or PART)
        for name in _other_candidates(model, findings, names)
    ]
    if granularity == "branch":
        parts = find_parts(model, example, blocks, passing)
        branches = [piece for block in blocks for piece in _split(model, block, parts, macs)]
        unsafe = _breaks_without(model, example, branches)
        rejected += [Rejection(name=name, reason=reason) for name, reason in unsafe.items()]
        blocks = tuple(branch for branch in branches if branch.name not in unsafe)
    return Blocks(
        removable=_numbered(blocks),
        rejected=tuple(rejected),
        params=count_params(model),
        macs=macs[""],
    )


def _block(model: nn.Module, name: str, finding: Finding, macs: int) -> Block:
    """Describe a block; its place among the others is filled in later."""
    return Block(
        name=name,
        position=-1,
        stage=-1,
        shape=finding.shape,
        params=count_params(model.get_submodule(name)),
        macs=macs,
        call=finding.call,
        post_norm=finding.post_norm,
    )


def _split(
    model: nn.Module, block: Block, parts: dict[str, list[Part]], macs: dict[str, int]
) -> list[Block]:
    """Put the branches of a block in its place; a block with one branch stays as it is."""
    whole = [replace(block, branch=None)]
    return [
        replace(
            block,
            name=part.name,
            params=sum(
                p.numel()
                for p in {
                    id(p): p
                    for one in part.branch.replacements
                    for p in model.get_submodule(one.name).parameters()
                }.values()
            ),
            macs=sum(macs[one.name] for one in part.branch.replacements),
            branch=part.branch,
        )
        for part in parts[block.name]
    ] or whole


def _numbered(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """Fill in positions and stages; branches share a stage with branches of their kind."""
    stages: dict[tuple[str, str, tuple[int, ...]], int] = {}
    numbered = []
    for position, block in enumerate(blocks):
        of = block.name if block.branch is None else block.branch.of
        kind = block.name.removeprefix(of)
        stage = stages.setdefault((of.rpartition(".")[0], kind, block.shape), len(stages))
        numbered.append(replace(block, position=position, stage=stage))
    return tuple(numbered)


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


def _is_stage(model: nn.Module, name: str, inner: set[str]) -> bool:
    module = model.get_submodule(name)
    held = {id(p) for child in inner for p in model.get_submodule(child).parameters()}
    held |= {id(p) for p in module.parameters(recurse=False)}  # a position embedding of its own
    covered = all(id(p) in held for p in module.parameters() if p.ndim > 1)
    kinds = {_kind(model.get_submodule(child)) for child in inner}
    return covered and (isinstance(module, nn.Sequential) or len(kinds) == 1)


def _kind(module: nn.Module) -> tuple[type, ...]:
    """Return the classes of a module and of all modules with weight matrices in it, in order."""
    return tuple(type(m) for m in module.modules() if any(p.ndim > 1 for p in m.parameters()))


def _maximal(names: set[str]) -> set[str]:
    """Keep the names that lie inside no other of the names."""
    return {name for name in names if not any(above in names for above in _above(name))}


def _inside(name: str, ancestor: str) -> bool:
    return name != ancestor and (ancestor == "" or name.startswith(f"{ancestor}."))


def _above(name: str) -> Iterator[str]:
    """List the names of all modules that contain this one, the root `""` included."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def _breaks_without(model: nn.Module, example: Inputs, blocks: Collection[Block]) -> dict[str, str]:
    """Take blocks out for real and run; return the ones the model's own code does not run without.

    One forward pass for all blocks together; block by block only where that one fails.
    """
    cached = _cached(model, example) if any(block.branch for block in blocks) else 0

    def failure(gone: Collection[Block]) -> str:
        small = view_of(model).eval()
        for block in gone:
            remove_from(small, block)
        reason = runs(small, example)
        lost = not reason and cached and _cached(small, example) != cached
        return "its cache of keys and values counts the tokens there" if lost else reason

    if not blocks or not failure(blocks):
        return {}
    return {
        block.name: f"is needed by the model's own code, which fails without it: {reason}"
        for block in blocks
        if (reason := failure([block]))
    }


def _cached(model: nn.Module, example: Inputs) -> int:
    """Return how many tokens the cache a language model returns says it holds; 0: no cache."""
    with torch.no_grad(), reference_kernels():
        output = call(view_of(model).eval(), example)
    count = getattr(getattr(output, "past_key_values", None), "get_seq_length", None)
    return 0 if count is None else int(count())


def _other_candidates(
    model: nn.Module, findings: dict[str, Finding], removable: set[str]
) -> list[str]:
    """List modules with inner weights that are neither removable nor part of what is.

    The outermost ones beside blocks; the innermost ones where there is no block to be beside of.
    """
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
    if not removable:
        outer = {above for name in candidates for above in _above(name)}
        return sorted(candidates - outer, key=lambda n: findings[n].order)
    opaque = {name for name in candidates if findings[name].reason == NO_TENSOR}
    opened = {name for name in opaque if any(_inside(other, name) for other in candidates)}
    return sorted(_maximal(candidates - opened), key=lambda n: findings[n].order)
