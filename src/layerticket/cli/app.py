"""The program `layerticket`: its verbs, help texts and exit codes.

Exit codes: 0 done, 1 failed while running, 2 bad input, 130 interrupted (the work resumes).
"""

import itertools
import logging
import os
import sys
import typing
import warnings
from collections.abc import Sequence

import cyclopts.config
from cyclopts import App, CycloptsError, Parameter
from pydantic import ValidationError

from layerticket.cli.output import fail
from layerticket.errors import OUR_ERRORS, LayerticketError, ModelError, in_words, unknown_name
from layerticket.settings import first_problem, to_table

TRACEBACK = "LAYERTICKET_TRACEBACK"

VERBS = {
    "blocks": (
        "List the residual blocks of a network that can be removed, and why others stay.",
        "layerticket blocks resnet32",
        "layerticket blocks timm:convnext_atto --input-shape 3,224,224",
        "layerticket blocks my_package.nets:build --data digits",
    ),
    "find": (
        "Find a ticket at initialization or in a run: score the blocks, remove the lowest.",
        "layerticket find resnet32 --remove 5 --out tickets/a",
        "layerticket find resnet32 --criterion snip --save-macs 0.34 --out tickets/b",
        "layerticket find resnet32 --remove 5 --data cifar10 --data-dir DIR --out tickets/c",
        "layerticket find --run runs/RUN --criterion snip --remove 3 --rewind 25% --out tickets/d",
        "layerticket find resnet32-projection --remove 1 --out tickets/p",
        "layerticket find resnet32-projection --baseline filters --criterion snip "
        "--reference tickets/p --out baselines/filters",
        "layerticket find resnet32 --baseline random --draw 3 --reference tickets/a "
        "--out baselines/r3",
    ),
    "train": (
        "Train a network, or a ticket of it; the same command resumes.",
        "layerticket train resnet32 --epochs 10",
        "layerticket train resnet32 --ticket tickets/a --epochs 10",
        "layerticket train resnet32 --epochs 10 --keep 0,25%,50%,75%",
        "layerticket train resnet32 --preset he2016 --epochs 182 --data cifar10 --data-dir DIR",
    ),
    "evaluate": (
        "Evaluate the trained network of a run.",
        "layerticket evaluate runs/RUN --on test,corruptions,fgsm,pgd",
        "layerticket evaluate runs/RUN --on cifar10-c,cifar10.2 --data-dir DIR --shift-dir DIR",
        "layerticket evaluate runs/RUN --on autoattack --attack-images 200 --epsilons 1 2",
    ),
    "study": (
        "Many runs from one file: write it, run or resume it, show its status.",
        "layerticket study new mine.toml",
        "layerticket study run quick --out study",
        "layerticket study run table2 --out table2 --data-dir DIR --set seeds=2 --workers 4",
        "layerticket study status study",
    ),
    "report": (
        "Write the report of a study: one page that works offline, tables, figures.",
        "layerticket report my-study",
        "layerticket report my-study --out paper --json",
    ),
    "demo": (
        "A complete example on built-in data: find tickets, train over paired seeds, compare.",
        "layerticket demo",
        "layerticket demo --criteria grasp random --seeds 5 --out demo-2",
    ),
}

PARTS = {
    "study": {
        "new": "Write a study file in which every setting is explained, to change and run.",
        "run": "Run a study, resume it, or run what was added to it.",
        "status": "Show how far a study is, also while it runs.",
    },
}

app = App(
    name="layerticket",
    help="Find winning tickets made of whole layers before training, train and compare them.",
    help_epilogue=(
        "Start with `layerticket demo`; `layerticket VERB --help` shows examples. Every verb takes "
        "--json and then prints one JSON object on stdout."
    ),
    default_parameter=Parameter(consume_multiple=True, negative_iterable=()),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for _verb, (_help, *_examples) in VERBS.items():
    _epilogue = "\n\n".join(["Examples:", *_examples])
    if _verb in PARTS:
        _group = App(name=_verb, help=_help, help_epilogue=_epilogue)
        for _part, _what in PARTS[_verb].items():
            _group.command(f"layerticket.cli.{_verb}:{_part}", name=_part, help=_what)
        app.command(_group)
    else:
        app.command(
            f"layerticket.cli.{_verb}:{_verb}", name=_verb, help=_help, help_epilogue=_epilogue
        )


def main(argv: Sequence[str] | None = None, *, program: App = app) -> int:
    """Run one verb and return the exit code.

    Args:
        argv: Words after the program's name; by default those of this process.
        program: The program that reads them; by default `layerticket`.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.WARNING, format="layerticket: %(message)s")
    formatting, warnings.formatwarning = warnings.formatwarning, _in_one_line
    try:
        if odd := [word for word in words if "\0" in word]:
            raise LayerticketError(f"argument {odd[0]!r} has a null byte. Remove it.")
        if "WORLD_SIZE" in os.environ and program is app and words[:1] != ["train"]:
            from layerticket.cli.options import alone

            alone(" ".join(["layerticket", *words[:1]]))
        program.config = _defaults(words)
        program(words, exit_on_error=False, print_error=False)
    except CycloptsError as err:
        return fail(_wording(err), 2)
    except KeyboardInterrupt:
        return fail("interrupted; repeat the command to resume", 130)
    except (Exception, SystemExit) as err:  # whatever happens, a command ends in one line
        if isinstance(err, LayerticketError) and not isinstance(err, ModelError):
            return fail(err, 2)
        if os.environ.get(TRACEBACK):
            raise
        if isinstance(err, (*OUR_ERRORS, OSError)):
            return fail(in_words(err), 1)
        return fail(f"{in_words(err)} ({TRACEBACK}=1 shows where)", 1)
    finally:
        warnings.formatwarning = formatting
    return 0


def _in_one_line(message: Warning | str, *_where: object, **_line: object) -> str:
    """Format a warning as one line, without its place in the code."""
    return f"layerticket: {' '.join(str(message).split())}\n"


def _defaults(words: Sequence[str]) -> tuple[cyclopts.config.Dict, ...]:
    """Return the options of `train` set by --preset, which the command line may override."""
    text = " ".join(words).replace("=", " ").split()
    if words[:1] != ["train"] or ("--preset", "he2016") not in itertools.pairwise(text):
        return ()
    from layerticket.training.recipe import Recipe, he2016

    preset, plain = to_table(he2016()), to_table(Recipe())
    given = {k.replace("_", "-"): value for k, value in preset.items() if value != plain[k]}
    return (cyclopts.config.Dict({"train": given}, source="--preset he2016"),)


def _wording(err: CycloptsError) -> object:
    """Return our message for a wrong value of an option; otherwise that of cyclopts."""
    cause, argument = err.__cause__, getattr(err, "argument", None)
    if argument is not None and isinstance(cause, ValidationError):
        return first_problem(argument.name, cause)
    token = getattr(err, "token", None)
    choices = [name for name in _choices(getattr(argument, "hint", None)) if isinstance(name, str)]
    if argument is None or token is None or not choices:
        return err
    return unknown_name(argument.name, token.value, choices)


def _choices(hint: object) -> tuple[object, ...]:
    """Return the values of a Literal, also of an optional one."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return parts
    return tuple(word for part in parts for word in _choices(part))
