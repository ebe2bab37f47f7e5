"""Finds the removable blocks of a network, among the modules that pass the zero-function test."""

import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from layerticket.batch import Inputs, call
from layerticket.blocks.block import Block, Blocks, Branch, Granularity, Rejection
from layerticket.blocks.branches import Part, find_parts, proportional, response
from layerticket.blocks.probe import (
    FURTHER,
    NO_TENSOR,
    Finding,
    Prober,
    is_inside,
    needed_outputs,
    runs,
)
from layerticket.blocks.record import Recording, record
from layerticket.blocks.sums import Sum, find_sums
from layerticket.counting import MacCounter, UncountedError, count_params, module_macs
from layerticket.errors import LayerticketError
from layerticket.modules import (
    in_eval_mode,
    network_of,
    preserved_random_state,
    preserved_stores,
    reference_kernels,
    view_of,
    with_plain_weights,
)
from layerticket.progress import told
from layerticket.surgery.hugging_face import pretrained
from layerticket.surgery.remove import remove_blocks, remove_from

PART = "is a branch of a larger block, which must stay"


def find_blocks(model: nn.Module, example: Inputs, *, granularity: Granularity = "block") -> Blocks:
    """Find the removable residual blocks of any network; the model is not modified.

    Args:
        model: Any network that supports ``copy.deepcopy``.
        example: Inputs to call it on (a tensor, a tuple or a dict); one example is enough.
        granularity: `block`: whole blocks; `branch`: if a block has several residual branches
            (attention, then a multilayer perceptron), each branch separately.

    Returns:
        Removable blocks in the order of execution, and the other candidates with the reason why
        each must stay. A network without residual blocks has no removable block; this is not an
        error.

    Raises:
        LayerticketError: If the model cannot be copied or does not run on `example`, or
            `granularity` is neither.
    """
    if granularity not in ("block", "branch"):
        raise LayerticketError(f"granularity is {granularity!r}; allowed are 'block' and 'branch'.")
    model = network_of(model)
    with preserved_stores(model):
        return _found(model, example, granularity)


def _found(model: nn.Module, example: Inputs, granularity: Granularity) -> Blocks:
    """Find blocks in a network without wrappers; see `find_blocks`."""
    plain = with_plain_weights(model)
    recording = record(plain, example)
    prober = recording.prober
    prober.test()
    macs, uncounted = _counted(model, example, recording.macs if plain is model else None)
    findings = prober.findings
    unsure = {name for name, finding in findings.items() if finding.reason == FURTHER}
    for name in unsure - needed_outputs(plain, example, unsure):
        findings[name].reason = ""
    passing = {name for name, finding in findings.items() if finding.reason == ""}
    candidates = [
        _block(model, macs, name, (found := findings[name]).shape, found.call, found.post_norm)
        for name in _outermost(plain, passing, prober)
    ]
    sums = find_sums(plain, recording.flow, passing)
    candidates += [
        _block(model, macs, one.name, one.shape, one.call, post_norm=False, branch=one.branch)
        for one in _block_sums(plain, sums, granularity)
    ]
    candidates.sort(key=lambda block: (findings[block.name].order, block.name))
    view = recording.view if plain is model else None
    unsafe = _breaks_without(model, example, candidates, recording, view)
    blocks = tuple(block for block in candidates if block.name not in unsafe)
    names = {block.name for block in blocks}
    rejected = [
        Rejection(name=name, reason=unsafe.get(name) or findings[name].reason or PART)
        for name in _other_candidates(plain, findings, names, unsafe.keys())
    ]
    if granularity == "branch":
        parts = find_parts(plain, prober, blocks, passing)
        branches = [branch for block in blocks for branch in _split(model, block, parts, macs)]
        if branches != list(blocks):
            unsafe = _breaks_without(model, example, branches, recording)
            rejected += [Rejection(name=name, reason=reason) for name, reason in unsafe.items()]
            blocks = tuple(branch for branch in branches if branch.name not in unsafe)
    return Blocks(
        removable=_with_shared(model, _numbered(blocks)),
        rejected=tuple(rejected),
        params=count_params(model),
        macs=None if macs is None else macs[""],
        uncounted=uncounted,
    )


def _counted(
    model: nn.Module, example: Inputs, recorded: MacCounter | None
) -> tuple[dict[str, int] | None, str]:
    """Count multiply-accumulates by module; if this is not possible, return None and the reason.

    `recorded` has the counts of a forward pass; None if weights are computed, which counts too.
    """
    try:
        if recorded is None:
            return module_macs(model, example), ""
        return recorded.by_module(model, example), ""
    except UncountedError as err:
        return None, str(err)


def _with_shared(model: nn.Module, blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """Fill in the parameters that each block shares with other places."""
    holders = {part: block.name for block in blocks for part in block.modules}
    names, sizes = dict[int, str](), dict[int, int]()
    places: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        key = id(parameter)
        names.setdefault(key, name)
        sizes[key] = parameter.numel()
        holder = next((holders[above] for above in _above(name) if above in holders), "")
        places.setdefault(key, set()).add(holder)
    return tuple(
        replace(
            block,
            shared=tuple(
                (names[key], sizes[key], len(where))
                for key, where in places.items()
                if block.name in where and len(where) > 1
            ),
        )
        for block in blocks
    )


def _block_sums(model: nn.Module, sums: Sequence[Sum], granularity: Granularity) -> list[Sum]:
    """Choose the sums whose branches count as blocks.

    With granularity `branch` these are all sums. Otherwise they are those that the network itself
    computes, or a module that computes several sums of branches of one kind.
    """
    kinds = {one.name: (one.at, _kind(model.get_submodule(one.name))) for one in sums}
    alike = Counter(kinds.values())
    return [
        one for one in sums if granularity == "branch" or one.at == "" or alike[kinds[one.name]] > 1
    ]


def _block(
    model: nn.Module,
    macs: Mapping[str, int] | None,
    name: str,
    shape: tuple[int, ...],
    form: Literal["plain", "rich"],
    post_norm: bool,
    branch: Branch | None = None,
) -> Block:
    """Describe a block or a branch; position and stage are filled in later."""
    removed = [name] if branch is None else [one.name for one in branch.replacements]
    sizes = {id(p): p.numel() for part in removed for p in model.get_submodule(part).parameters()}
    return Block(
        name=name,
        position=-1,
        stage=-1,
        shape=shape,
        params=sum(sizes.values()),
        macs=None if macs is None else sum(macs[part] for part in removed),
        call=form,
        post_norm=post_norm,
        branch=branch,
    )


def _split(
    model: nn.Module,
    block: Block,
    parts: dict[str, list[Part]],
    macs: Mapping[str, int] | None,
) -> list[Block]:
    """Return the branches of a block; a block with one branch is returned itself."""
    return [
        _block(model, macs, part.name, block.shape, block.call, block.post_norm, part.branch)
        for part in parts.get(block.name, [])
    ] or [block]


def _numbered(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """Fill in positions and stages; branches share a stage with branches of the same name."""
    stages: dict[tuple[str, str, tuple[int, ...]], int] = {}
    numbered = []
    for position, block in enumerate(blocks):
        of = block.name if block.branch is None else block.branch.of
        kind = block.name.removeprefix(of)
        stage = stages.setdefault((of.rpartition(".")[0], kind, block.shape), len(stages))
        numbered.append(replace(block, position=position, stage=stage))
    return tuple(numbered)


def _outermost(model: nn.Module, passing: set[str], prober: Prober) -> set[str]:
    """Choose blocks among the modules that pass: the outermost ones, or those inside a stage.

    A stage is a sequence of passing modules, or a module whose weight matrices are all in passing
    modules of one kind, or a module whose stream passes through several blocks of one kind. A
    module whose passing modules differ in kind (attention, then a multilayer perceptron) is a block
    with several branches.
    """

    def blocks_in(name: str) -> set[str]:
        inner = _outermost_names({other for other in passing if is_inside(other, name)})
        if name == "" or (inner and _is_stage(model, name, inner)):
            return {block for child in inner for block in blocks_in(child)}
        stacked = {
            block
            for child in inner
            if _passes_through(name, child, prober)
            for block in blocks_in(child)
        }
        kinds = Counter(_kind(model.get_submodule(block)) for block in stacked)
        return stacked if max(kinds.values(), default=0) > 1 else {name}

    chosen = blocks_in("")
    classes = {type(model.get_submodule(name)) for name in chosen}
    return {  # not inside a module of a class that is itself removable
        name
        for name in chosen
        if not any(type(model.get_submodule(above)) in classes for above in _above(name))
    }


def _passes_through(outer: str, inner: str, prober: Prober) -> bool:
    """Whether the zeroed module `outer` returns the output of its inner module unchanged."""
    given, zeroed = prober.calls[outer], prober.passed[outer]
    with preserved_random_state(0):
        r = torch.randn_like(given.x) + 1
        try:
            output = response(zeroed, {inner.removeprefix(f"{outer}."): r}, given)
        except Exception:  # it does something else with this output
            return False
    return proportional(output, r)


def _is_stage(model: nn.Module, name: str, inner: set[str]) -> bool:
    module = model.get_submodule(name)
    known = {id(p) for child in inner for p in model.get_submodule(child).parameters()}
    known |= {id(p) for p in module.parameters(recurse=False)}  # such as a position embedding
    covered = all(id(p) in known for p in module.parameters() if p.ndim > 1)
    kinds = {_kind(model.get_submodule(child)) for child in inner}
    return covered and (isinstance(module, nn.Sequential) or len(kinds) == 1)


def _kind(module: nn.Module) -> tuple[type, ...]:
    """Return the classes of all modules with weight matrices in a module, itself included."""
    return tuple(type(m) for m in module.modules() if any(p.ndim > 1 for p in m.parameters()))


def _outermost_names(names: set[str]) -> set[str]:
    """Return the names that are not inside another one of them."""
    return {name for name in names if not any(above in names for above in _above(name))}


def _above(name: str) -> Iterator[str]:
    """Yield the names of all modules that contain this one, including the root `""`."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def _breaks_without(
    model: nn.Module,
    example: Inputs,
    blocks: Sequence[Block],
    recording: Recording,
    view: nn.Module | None = None,
) -> dict[str, str]:
    """Remove blocks and run the network; return the blocks without which it fails, with reasons.

    All blocks are removed together, and each block with side effects alone. If this fails, each
    block is removed alone, and then one after the other, starting at the output. A network may read
    its number of layers from its configuration, so a failure counts only if the smaller network
    with a corrected configuration fails too. Cost: a forward pass without the blocks, and one more
    for each block that is removed alone. `view`, if given, is used for the first pass and changed.
    """
    cached = _cached_tokens(recording.output) if any(block.branch for block in blocks) else 0

    def failure(removed: Sequence[Block], view: nn.Module | None = None) -> str:
        small = in_eval_mode(view_of(model)) if view is None else view
        for block in removed:
            remove_from(small, block)
        reason = runs(small, example)
        if reason and pretrained(model):
            with warnings.catch_warnings(action="ignore", category=UserWarning):
                reason = runs(in_eval_mode(remove_blocks(model, removed)), example)
        lost = not reason and cached and _cached_tokens(_output(small, example)) != cached
        return "its key-value cache counts the tokens in this block" if lost else reason

    needed = "is needed by the model's own code, which fails without it: {}"
    unsafe: dict[str, str] = {}
    together = bool(blocks) and failure(blocks, view)
    changing = [block for block in blocks if block.modules[0] in recording.effects]
    alone = blocks if together else changing
    with told("testing the network without a block") as tell:
        for number, block in enumerate(alone):
            tell(number / len(alone), block.name)
            if reason := failure([block]):
                unsafe[block.name] = needed.format(reason)
        left = [block for block in blocks if block.name not in unsafe]
        if left and (together or unsafe) and failure(left):
            removed: list[Block] = []
            for block in reversed(left):
                if reason := failure([*removed, block]):
                    others = ", ".join(other.name for other in reversed(removed))
                    unsafe[block.name] = f"{needed.format(reason)} (when {others} are removed)"
                else:
                    removed.append(block)
    return unsafe


def _output(model: nn.Module, example: Inputs) -> Any:  # noqa: ANN401 - whatever it returns
    with torch.no_grad(), reference_kernels():
        return call(in_eval_mode(view_of(model)), example)


def _cached_tokens(output: Any) -> int:  # noqa: ANN401 - whatever a model returns
    """Return the number of tokens in the cache that a language model returned; 0: no cache."""
    count = getattr(getattr(output, "past_key_values", None), "get_seq_length", None)
    return 0 if count is None else int(count())


def _other_candidates(
    model: nn.Module, findings: dict[str, Finding], removable: set[str], unsafe: Collection[str]
) -> list[str]:
    """Return the modules with inner weights that are not removable, nor inside a removable block.

    Only the outermost ones are returned; in a network without removable blocks, the innermost.
    """
    around = {above for name in [*removable, *unsafe] for above in _above(name)} | {""}
    classes = {type(model.get_submodule(name)) for name in removable}
    candidates = {
        name
        for name, finding in findings.items()
        if name not in removable
        and name not in around
        and not isinstance(model.get_submodule(name), (nn.ModuleList, nn.ModuleDict))
        and (finding.composite or type(model.get_submodule(name)) in classes)
        and not any(above in removable for above in _above(name))
    }
    if not removable:
        outer = {above for name in candidates for above in _above(name)}
        return sorted(candidates - outer, key=lambda n: (findings[n].order, n))
    opaque = {name for name in candidates if findings[name].reason == NO_TENSOR}
    opened = {name for name in opaque if any(is_inside(other, name) for other in candidates)}
    return sorted(_outermost_names(candidates - opened), key=lambda n: (findings[n].order, n))
