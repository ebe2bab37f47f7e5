"""Find the removable blocks of over a hundred architectures: docs/results/architectures.md."""

import importlib
import json
import logging
import multiprocessing
import os
import resource
import shlex
import sys
import tomllib
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from cyclopts import App, Parameter
from torch import Tensor, nn
from torch.nn import functional

from layerticket.batch import Inputs, call, logits_of, tensors_of
from layerticket.blocks.block import Block, Blocks
from layerticket.blocks.find import find_blocks
from layerticket.cli import app as cli
from layerticket.cli.options import Json
from layerticket.cli.output import emit, log
from layerticket.counting import count_macs
from layerticket.errors import LayerticketError
from layerticket.files import digest, write_atomically, write_json
from layerticket.models.load import build_model
from layerticket.modules import preserved_random_state
from layerticket.report.tables import markdown
from layerticket.scoring import score
from layerticket.surgery.remove import remove_blocks, zero_blocks

CLASSES = 10
TOKENS = 90
"""Token identifiers are drawn below this number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """One network and the shapes of its inputs."""

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
        LayerticketError: If the file cannot be read, has another format, or has a name twice.
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
            f"{path} is not a list of architectures ({type(err).__name__}: {err}). See "
            "benchmarks/architectures.toml for the format."
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
        LayerticketError: If its library does not have it or cannot build it.
    """
    if spec.config is None:
        model = build_model(spec.name, classes=CLASSES, channels=3, seed=0).eval()
    else:
        model = _from_config(spec.name.partition(":")[2], spec.config).eval()
    generator = torch.Generator().manual_seed(0)
    drawn = {name: _draw(name, shape, generator) for name, shape in spec.inputs.items()}
    return model, drawn.get("images", drawn)


def _from_config(name: str, config: dict[str, Any]) -> nn.Module:
    """Build a transformers network with random weights from the settings of its class."""
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


logger = logging.getLogger(__name__)


def examine(spec: Spec) -> dict[str, Any]:
    """Find the removable blocks of a network, remove them all, and check the smaller network.

    If the network does not run without all of them, as many as possible are removed, starting at
    the output.

    Args:
        spec: The network.

    Returns:
        The row: `params` and `macs` of the network, the numbers of `blocks`, of `stays` (candidates
        that must stay) and of blocks `removed` together, the `macs_saving` and `params_saving`, and
        the checks of the smaller network, null if nothing is removed: `forward` (the output has its
        shape), `same_as_zeros` (the output equals that with zeroed blocks; null if a normalization
        follows the addition), `backward` (in training mode; every gradient is finite, and every
        weight that had one before has one) and `export` (`torch.export` gives the same output).
        `reasons`: why candidates must stay, with their number. `branches`: number of parts that are
        removable at the granularity of branches; `branches_same`: whether the network without every
        second one gives the same output as with these at zero (null if this cannot be checked, or
        blocks have one branch only).
        `grasp`: whether the default criterion scores the blocks, or why not; null with fewer than
        two blocks.
    """
    model, example = build(spec)
    found = find_blocks(model, example)
    branches = find_blocks(model, example, granularity="branch")
    small, gone = _remove_most(model, found, example)
    row: dict[str, Any] = {
        "name": spec.name,
        "inputs": spec.inputs,
        "params": found.params,
        "macs": found.macs,
        "blocks": len(found),
        "stays": len(found.rejected),
        "removed": len(gone),
        "macs_saving": None,
        "params_saving": None,
        "forward": None,
        "same_as_zeros": None,
        "backward": None,
        "export": None,
        "branches": len(branches),
        "branches_same": _branches_same(model, branches, example),
        "grasp": _scored(model, found, example),
        "reasons": _reasons(found),
    }
    if gone:
        left = sum(parameter.numel() for parameter in small.parameters())
        if found.macs is not None:
            row["macs_saving"] = round(1 - count_macs(small, example) / found.macs, 6)
        row["params_saving"] = round(1 - left / found.params, 6)
        row |= _tried(model, small, gone, example)
    return row


def _scored(model: nn.Module, found: Blocks, example: Inputs) -> str | None:
    """Try the default criterion on two examples; if need be, gains of zero are taken for one.

    Image networks are scored by their classes, the others by all of their logits.
    """
    if len(found) < 2:
        return None
    batch = _repeated(example), torch.arange(2)
    options: dict[str, Any] = {} if isinstance(example, Tensor) else {"loss_fn": _logit_loss}
    try:
        score(model, found, batch, **options)
    except LayerticketError as err:
        if "zero_init='as-one'" not in str(err):
            return str(err)
    else:
        return "yes"
    try:
        score(model, found, batch, zero_init="as-one", **options)
    except LayerticketError as err:
        return str(err)
    return "yes, with zero gains as one"


def _logit_loss(model: nn.Module, batch: Any) -> Tensor:
    """Return the cross-entropy of every row of logits for a class of its own."""
    logits = logits_of(call(model, batch[0])).float().flatten(0, -2)
    return functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1])


def _remove_most(
    model: nn.Module, found: Blocks, example: Inputs
) -> tuple[nn.Module, tuple[Block, ...]]:
    """Remove all blocks; if the network does not run without them, as many as possible."""
    small = remove_blocks(model, found)
    if _runs(small, example):
        return small, found.removable
    gone: list[Block] = []
    for block in reversed(found.removable):
        if _runs(remove_blocks(model, [*gone, block]), example):
            gone.append(block)
    return remove_blocks(model, gone), tuple(gone)


def _runs(model: nn.Module, example: Inputs) -> bool:
    try:
        with torch.no_grad():
            call(model.eval(), example)
    except Exception:  # the network's own code may raise anything
        logger.info("%s does not run", type(model).__name__, exc_info=True)
        return False
    return True


def _reasons(found: Blocks) -> dict[str, int]:
    """Count the reasons why candidates must stay, without details; the most frequent first."""
    short = [_short(rejection.reason) for rejection in found.rejected]
    return dict(sorted(Counter(short).items(), key=lambda item: (-item[1], item[0])))


def _short(reason: str) -> str:
    if reason.startswith("changes shape"):
        return "changes shape"
    for mark in (":", "(", ", which fails"):
        reason = reason.partition(mark)[0]
    return reason.strip()


def _tried(
    model: nn.Module, small: nn.Module, gone: tuple[Block, ...], example: Inputs
) -> dict[str, bool | None]:
    """Run the smaller network forward and backward, and export it."""
    with torch.no_grad():
        dense, output = (logits_of(call(net.eval(), example)) for net in (model, small))
    return {
        "forward": bool(output.shape == dense.shape and output.isfinite().all()),
        "same_as_zeros": _same_as_zeros(model, gone, example, output),
        "export": _exports(small, example, output),
        "backward": _backward(model, small, example),  # last: it moves running averages
    }


def _same_as_zeros(
    model: nn.Module, gone: tuple[Block, ...], example: Inputs, output: Tensor
) -> bool | None:
    """Whether an output is that of the network with the blocks at zero; None if it need not be."""
    try:
        zeroed = zero_blocks(model, gone)
    except LayerticketError:  # a normalization after an addition would output zeros
        return None
    with torch.no_grad():
        return _close(output, logits_of(call(zeroed.eval(), example)))


def _branches_same(model: nn.Module, branches: Blocks, example: Inputs) -> bool | None:
    """Remove every second branch, if blocks have several, and compare as `_same_as_zeros`."""
    if all(block.branch is None for block in branches):
        return None
    gone = branches.removable[::2]
    with torch.no_grad():
        output = logits_of(call(remove_blocks(model, gone).eval(), example))
    return _same_as_zeros(model, gone, example, output)


def _backward(model: nn.Module, small: nn.Module, example: Inputs) -> bool:
    """Whether all gradients are finite, and all weights with a gradient before still have one."""
    pair = _repeated(example)
    before, after = _gradients(model, pair), _gradients(small, pair)
    finite = all(bool(gradient.isfinite().all()) for gradient in after.values())
    return finite and after.keys() == before.keys() & dict(small.named_parameters()).keys()


def _gradients(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """Return the gradients in training mode by name, without those of unused weights."""
    model.train().zero_grad()
    logits = logits_of(call(model, inputs)).float()
    logits.square().mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def _repeated(example: Inputs) -> Inputs:
    """Return a batch of the example and its mirror image, for batch normalization."""
    if isinstance(example, Tensor):
        return torch.cat([example, example.flip(-1)])
    assert isinstance(example, Mapping)
    return {name: torch.cat([value, value.flip(-1)]) for name, value in example.items()}


def _exports(small: nn.Module, example: Inputs, output: Tensor) -> bool:
    """Whether `torch.export` accepts the network and gives the same output."""
    args, kwargs = ((), dict(example)) if isinstance(example, Mapping) else ((example,), None)
    assert tensors_of(example)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(small.eval(), args, kwargs)
            exported = logits_of(program.module()(*args, **(kwargs or {})))
    except Exception:  # the exporter may raise anything
        logger.info("%s is not exported", type(small).__name__, exc_info=True)
        return False
    return _close(exported, output)


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4)


LIBRARIES = ("timm", "torchvision", "transformers")


def survey(
    specs: Sequence[Spec],
    journal: Path,
    *,
    seconds: float = 300,
    memory: int = 6 * 2**30,
    versions: dict[str, str],
    report: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Examine architectures one after the other, on one thread each.

    Args:
        specs: The networks.
        journal: File of finished rows, one JSON line each; a row is reused if specification and
            versions are the same.
        seconds: Time limit of each network.
        memory: Memory limit of each network, in bytes.
        versions: Versions of the libraries, recorded with each row.
        report: Called with a line of progress.

    Returns:
        The rows in the order of `specs`. If the examination itself failed, the row has `error` (the
        message) instead of figures.
    """
    journal.parent.mkdir(parents=True, exist_ok=True)
    done = _finished(journal)
    rows = []
    for number, spec in enumerate(specs, start=1):
        key = digest({"spec": asdict(spec), "versions": versions, "columns": list(HEADER)})
        if key not in done:
            done[key] = _apart(spec, seconds, memory)
            with journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "row": done[key]}) + "\n")
            report(f"{number} of {len(specs)}: {spec.name}: {_outcome(done[key])}")
        rows.append(done[key])
    return rows


def _finished(journal: Path) -> dict[str, dict[str, Any]]:
    """Read the rows of an earlier call, except a line that was cut off by an interruption."""
    rows = {}
    for line in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[entry["key"]] = entry["row"]
    return rows


def _apart(spec: Spec, seconds: float, memory: int) -> dict[str, Any]:
    """Examine in a separate process with limits; a failure becomes a row with `error`."""
    context = multiprocessing.get_context("forkserver")  # imports the libraries only once
    context.set_forkserver_preload([__name__, *LIBRARIES])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(spec, memory, theirs))
    process.start()
    theirs.close()
    row: dict[str, Any] = {"name": spec.name, "inputs": spec.inputs}
    try:
        if ours.poll(seconds):
            row.update(ours.recv())
            return row
        process.kill()
        return row | {"error": f"took over {seconds:g} s"}
    except EOFError:
        process.join()
        return row | {"error": f"its process ended with code {process.exitcode}"}
    finally:
        process.join()
        ours.close()


def _answer(spec: Spec, memory: int, back: Connection) -> None:
    """Examine one architecture and send the row, or the error."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    try:
        row = examine(spec)
    except Exception as err:
        row = {"error": " ".join(f"{type(err).__name__}: {err}".split())[:300]}
    back.send(row)
    back.close()


def _outcome(row: dict[str, Any]) -> str:
    return row.get("error") or f"{row['blocks']} blocks, saving {row['macs_saving']}"


HEADER = (
    "network",
    "input",
    "M MACs",
    "blocks",
    "branches",
    "MACs saved",
    "params saved",
    "removal verified",
    "GraSP",
    "why not (more)",
)
CHECKS = ("forward", "same_as_zeros", "backward", "export")
WORDS = {"same_as_zeros": "zeros"}


def architectures_page(record: Mapping[str, Any]) -> str:
    """Write the page.

    Args:
        record: `command`, `versions`, and `rows` as `survey` returns them.
    """
    rows = record["rows"]
    some = [row for row in rows if row.get("blocks")]
    every = (*CHECKS, "branches_same")
    whole = [row for row in some if all(row.get(check) is not False for check in every)]
    zeros = sum(row["same_as_zeros"] is True for row in whole)
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    libraries = sorted({row["name"].partition(":")[0] for row in rows})
    parts = [
        "# Architectures",
        f"Removable blocks in {len(rows)} architectures of other libraries, at random "
        f"initialization; layerticket knows none of them by name. {len(some)} have removable "
        f"blocks, and {len(whole)} of these failed no check below; for {zeros} of them the output "
        "was compared with that of zeroed blocks, the others have a normalization or an activation "
        "after the addition. Made by",
        f"```bash\n{record['command']}\n```",
        f"from the list in `benchmarks/architectures.toml`, with {versions}.",
        EXPLANATION,
    ]
    for library in libraries:
        mine = [_row(row) for row in rows if row["name"].startswith(f"{library}:")]
        parts += [f"## {library}", markdown((HEADER, mine)).rstrip()]
    return "\n\n".join(parts) + "\n"


EXPLANATION = """\
- **blocks**: residual blocks that the identity can replace. **branches**: parts that can be removed
  at `--granularity branch`; as many as blocks if each block has one branch.
- **saved**: by removing all blocks together (or as many as the network's own code can run without,
  written "3 of 4"): the largest possible saving, not a recommendation.
- **removal verified** by these checks of the network without the blocks. *forward*: the output has
  its shape and is finite. *zeros*: the output equals that of the network with these blocks at zero
  (not checked if a normalization or an activation after the addition belongs to the block).
  *backward*: in training mode all gradients are finite, and every weight that had one still has
  one. *export*: `torch.export` gives a program with the same output. *branches*: without every
  second branch, the output equals that with these branches at zero. If every
  block that reads the output of a module is gone (an encoder without decoder layers, the global
  query of GCViT), the module has no gradients, so *backward* fails.
- **GraSP**: whether the default criterion scores the blocks on two examples (with
  `zero_init="as-one"` if the last layer of each branch starts at zero), or why not.
- **why not**: reasons why other candidates must stay, and how many have each."""


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of one architecture."""
    name = row["name"].partition(":")[2]
    shapes = ", ".join("x".join(map(str, shape[1:])) for shape in row["inputs"].values())
    if "error" in row:
        return (name, shapes, *[""] * 7, f"not examined: {row['error']}".replace("|", "/"))
    blocks, removed = row["blocks"], row["removed"]
    return (
        name,
        shapes,
        _millions(row["macs"]),
        str(blocks) if removed == blocks else f"{removed} of {blocks}",
        str(row["branches"]),
        _percent(row["macs_saving"]),
        _percent(row["params_saving"]),
        _verified(row) if removed else "",
        (row["grasp"] or "").replace("|", "/"),
        "; ".join(f"{reason} ({count})" for reason, count in row["reasons"].items()),
    )


def _verified(row: Mapping[str, Any]) -> str:
    """List the checks that passed, and those that failed."""
    results = {WORDS.get(check, check): row[check] for check in CHECKS}
    results["branches"] = row["branches_same"]
    passed = [name for name, result in results.items() if result]
    failed = [name for name, result in results.items() if result is False]
    return ", ".join(passed) + (f"; **not**: {', '.join(failed)}" if failed else "")


def _millions(count: int | None) -> str:
    if count is None:
        return "not counted"
    return f"{count / 1e6:,.1f}" if count >= 1e5 else f"{count / 1e6:.3f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


PROGRAM = "python benchmarks/architectures.py"
app = App(
    name=PROGRAM,
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
    result_action="return_value",
    version_flags=[],
)


@app.default
def run(
    *,
    out: Path = Path("docs/results/architectures.md"),
    names: Path = Path("benchmarks/architectures.toml"),
    journal: Path | None = None,
    seconds: float = 600,
    memory: int = 6 * 2**30,
    json: Json = False,
) -> None:
    """Examine every architecture of a list, each in a separate process; the command resumes.

    Parameters
    ----------
    out
        Page to write; a JSON file of the same name has the figures.
    names
        List of architectures.
    journal
        File of finished rows; by default out with the ending .jsonl.
    seconds
        Time limit of each network.
    memory
        Memory limit of each network, in bytes.
    """
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")  # for the processes it starts
    specs = read_specs(names)
    versions = {name: version(name) for name in ("torch", "timm", "torchvision", "transformers")}
    rows = survey(
        specs,
        journal or out.with_suffix(".jsonl"),
        seconds=seconds,
        memory=memory,
        versions=versions,
        report=log,
    )
    command = shlex.join([*PROGRAM.split(), *sys.argv[1:]])
    record = {"command": command, "versions": versions, "rows": rows}
    write_json(out.with_suffix(".json"), record)
    write_atomically(out, architectures_page(record))
    emit(record, f"{len(rows)} architectures: {out}", as_json=json)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the table.

    Args:
        argv: Arguments; by default those of the process.

    Returns:
        The exit code, as of `layerticket`.
    """
    return cli.main(argv, program=app)


if __name__ == "__main__":
    sys.exit(main())
