"""The zero-function test of the modules of a network, with the arguments of their own calls.

With all parameters zero, a residual block returns its input; with random ones, it adds a value that
depends on the input.
"""

import copy
from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from layerticket.batch import Inputs, call, first_tensor, output_parts, tensors_of
from layerticket.blocks.kinds import PLAIN, kind_of
from layerticket.blocks.norms import Like, find_norms, find_pointwise
from layerticket.counting import count_params
from layerticket.errors import short
from layerticket.modules import (
    copy_of,
    in_eval_mode,
    preserved_random_state,
    reference_kernels,
    view_of,
)
from layerticket.progress import told
from layerticket.surgery.remove import Replacement

FURTHER = "returns further outputs that later modules may need"
NOT_ALONE = "cannot be run alone"
SIDE = 16
"""Largest width and height of the images that modules are tested on."""
NO_TENSOR = "takes no floating-point tensor"
NO_OUTPUT = "returns None, or fails with an error that the network catches"
PASSED = ("", FURTHER)
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


@dataclass(slots=True)
class Finding:
    """Test result of one module."""

    order: int
    """Index in the order of execution."""
    shape: tuple[int, ...] = ()
    """Shape of the first floating-point input, without the batch dimension."""
    call: Literal["plain", "rich"] = "plain"
    post_norm: bool = False
    """Whether a normalization, or an activation other than ReLU, follows the addition."""
    composite: bool = False
    """Whether submodules have weight matrices."""
    calls: int = 0
    reason: str = "is never called in a forward pass on the example"
    """Why it must stay; empty if it passes."""


def runs(model: nn.Module, example: Inputs) -> str:
    """Return an empty string if the model runs on the example, otherwise the error."""
    try:
        with torch.no_grad(), reference_kernels():
            call(model, example)
    except Exception as err:
        return cause_of(err)
    return ""


def cause_of(err: Exception) -> str:
    """Return the error of a network in one line."""
    cause = err.__cause__ or err
    return f"{type(cause).__name__}: {short(cause)}"


class Prober:
    """Records the calls of modules in one forward pass, and tests one module of each kind."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.zeros = zeros_for(model)
        self.findings = {
            name: Finding(order=-1, composite=bool(matrices - _matrices(module, recurse=False)))
            for name, module in model.named_modules()
            if name and (matrices := _matrices(module))
        }
        self.visited = 0
        self.inputs: dict[str, Like] = {}
        """The input of each module that is called with one tensor."""
        self.recorded: dict[str, RecordedCall] = {}
        """How each module that is called once was called, in the order of execution."""
        self.calls: dict[str, Call] = {}
        """How each module that passed was called."""
        self.passed: dict[str, nn.Module] = {}
        """The copy of each module that passed, with zero parameters."""
        self.identities: set[str] = set()
        """Normalizations and activations, which may follow an addition."""
        self.outcomes: dict[Hashable, Outcome] = {}
        """Result of the first module of each kind."""

    def enter(self, name: str, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        """Record how a module is called."""
        only = len(args) == 1 and not kwargs
        if only and isinstance(args[0], Tensor) and args[0].is_floating_point():
            self.inputs[name] = Like(args[0].shape, args[0].dtype, args[0].device)
        finding = self.findings.get(name)
        if finding is None:
            return
        finding.calls += 1
        if finding.calls > 1:
            finding.reason = "is called more than once in a forward pass"
            self.recorded.pop(name, None)
            return
        finding.order, self.visited = self.visited, self.visited + 1
        where = find_input(args, kwargs)
        if where is None:
            finding.reason = NO_TENSOR
            return
        self.recorded[name] = RecordedCall.of(module, where, args, kwargs)
        finding.shape = self.recorded[name].like.shape[1:]
        finding.reason = ""

    def leave(self, name: str, output: Any) -> None:  # noqa: ANN401 - whatever it returns
        """Record whether a module changes the shape; the output of one that failed is None."""
        finding, first = self.findings.get(name), first_tensor(output)
        if finding is not None and output is None and not finding.reason:
            finding.reason = NO_OUTPUT
        if finding is not None and finding.calls == 1 and first is not None:
            shape = tuple(first.shape[1:])
            if finding.shape and shape != finding.shape:
                finding.reason = f"changes shape {_show(finding.shape)} -> {_show(shape)}"

    def test(self) -> None:
        """Run the zero-function test on every module with weights; the model is not modified.

        Each module is called alone with its recorded call; of modules that differ only in the
        values of their weights, only one. Cost: about five forward passes of one module of each
        kind.
        """
        with preserved_random_state(0), torch.no_grad(), reference_kernels():
            norms, pointwise = find_norms(self.model, self.inputs), find_pointwise(self.model)
            self.identities = norms | pointwise
            # by id, since a module can be used in several places
            self.norms = {id(self.model.get_submodule(name)) for name in norms}
            self.pointwise = {id(self.model.get_submodule(name)) for name in pointwise}
            with told("testing modules") as tell:
                for number, (name, recorded) in enumerate(reversed(self.recorded.items())):
                    tell(number / len(self.recorded), name)  # inner modules first
                    self.examine(name, recorded)

    def examine(self, name: str, recorded: "RecordedCall") -> None:
        """Test one module with its recorded call, or use the result of a module of its kind."""
        finding = self.findings[name]
        if finding.reason:  # it changes the shape
            return
        if recorded.is_layer:
            finding.reason = "is a single layer, not a residual block"
            return
        key: Hashable = recorded.kind_of(self.model.get_submodule(name)) or name
        if key not in self.outcomes:
            passes = self._is_passing_sequence(name)
            self.outcomes[key] = (
                self._passing(name, recorded) if passes else self._test(name, recorded)
            )
        outcome = self.outcomes[key]
        finding.reason, finding.call = outcome.reason, outcome.form
        finding.post_norm = outcome.post_norm
        if finding.reason in PASSED:
            self.calls[name], self.passed[name] = outcome.given, outcome.zeroed

    def _is_passing_sequence(self, name: str) -> bool:
        """Whether a module only calls passing modules, one after the other."""
        module = self.model.get_submodule(name)
        inner = [self.findings.get(f"{name}.{child}") for child in module._modules]
        plain = type(module).forward is nn.Sequential.forward and "forward" not in vars(module)
        return plain and bool(inner) and all(one and not one.reason for one in inner)

    def _passing(self, name: str, recorded: "RecordedCall") -> "Outcome":
        """Return the result of a sequence of passing modules: it passes."""
        inner = {c: f"{name}.{c}" for c in self.model.get_submodule(name)._modules}
        parts = [(child, self.passed[n]) for child, n in inner.items()]
        zero = nn.Sequential(
            OrderedDict((c, copy_of(p, {id(z): z for z in p.parameters()})) for c, p in parts)
        )
        post_norm = any(self.findings[n].post_norm for n in inner.values())
        return Outcome("", "plain", post_norm, recorded.with_input(SIDE), zero)

    def _test(self, name: str, recorded: "RecordedCall") -> "Outcome":
        """Run all tests on one module."""
        given = recorded.with_input(SIDE)
        zero = passed = self._zeroed(name)
        post_norm = False
        reason, form = zero_test(zero, given)
        if reason.startswith(NOT_ALONE) and given.x.shape != recorded.like.shape:
            given = recorded.with_input()
            reason, form = zero_test(zero, given)
        parts = {id(part) for part in self.model.get_submodule(name).modules()}
        tried: set[int] = set()
        for identities in (parts & self.norms, parts & (self.norms | self.pointwise)):
            if reason not in PASSED and identities != tried:
                tried = identities
                without = self._zeroed(name, identities)
                other, other_form = zero_test(without, given)
                if other in PASSED:
                    reason, form, post_norm, passed = other, other_form, True, without
        if reason in PASSED:
            reason = branch_test(zero, given) or reason
        if reason in PASSED and not post_norm:
            post_norm = not idempotent(zero, given)
        return Outcome(reason, form, post_norm, given, passed)

    def _zeroed(self, name: str, identities: Collection[int] = ()) -> nn.Module:
        """Copy a module with zero parameters; those with ids in `identities` return their input."""
        module = self.model.get_submodule(name)
        with torch.no_grad():  # the forward of another module may have written into them
            for p in module.parameters():
                if p.is_floating_point():
                    self.zeros[id(p)].zero_()
        zero = in_eval_mode(
            copy_of(module, {id(p): self.zeros[id(p)] for p in module.parameters()})
        )
        for inner, part in module.named_modules():
            if id(part) in identities:
                zero.get_submodule(inner).forward = first_argument
        return zero


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A recorded call of a module without its input; arguments with a state are copied."""

    where: int | str
    args: Args
    kwargs: Kwargs
    like: Like
    is_layer: bool
    """Whether the module is a PyTorch layer without submodules."""

    @classmethod
    def of(cls, module: nn.Module, where: int | str, args: Args, kwargs: Kwargs) -> "RecordedCall":
        """Record a call whose input is the argument `where`."""
        x: Tensor = args[where] if isinstance(where, int) else kwargs[where]
        if isinstance(where, int):
            args = (*args[:where], None, *args[where + 1 :])
        else:
            kwargs = {**kwargs, where: None}
        layer = type(module).__module__.startswith("torch.nn.") and not list(module.children())
        like = Like(tuple(x.shape), x.dtype, x.device)
        return cls(where, isolated(args), isolated(kwargs), like, layer)

    def kind_of(self, module: nn.Module) -> Hashable | None:
        """Return a key that is equal for calls with the same result; None if there is none."""
        if any(not isinstance(value, PLAIN) for value in (*self.args, *self.kwargs.values())):
            return None
        named = tuple(self.kwargs.items())
        return self.where, self.args, named, self.like, kind_of(module)

    def with_input(self, side: int | None = None) -> "Call":
        """Return the call with a random input; images are at most `side` wide and high."""
        like = self.like
        alone = is_only_argument(self.where, self.args, self.kwargs)
        if side is not None and alone and len(like.shape) == 4:
            smaller = (min(size, side) for size in like.shape[2:])
            like = replace(like, shape=(*like.shape[:2], *smaller))
        return Call(like.drawn(torch.rand) + 0.5, self.where, self.args, self.kwargs)


@dataclass(frozen=True, slots=True)
class Call:
    """A recorded call of a module with a random input.

    The input is positive, so that a ReLU after the addition does not change it, and not constant,
    so that a gate does not pass as a block.
    """

    x: Tensor
    where: int | str
    args: Args
    kwargs: Kwargs

    def on(self, module: nn.Module, x: Tensor | None = None) -> Any:  # noqa: ANN401
        """Call a module with the random input, or with another one."""
        x = self.x.clone() if x is None else x
        args, kwargs = isolated(self.args), isolated(self.kwargs)
        if isinstance(self.where, int):
            args = (*args[: self.where], x, *args[self.where + 1 :])
        else:
            kwargs = {**kwargs, self.where: x}
        return module(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of all tests of one module, with the call and the copy that were tested."""

    reason: str
    """Empty, or FURTHER, if it passed."""
    form: Literal["plain", "rich"]
    post_norm: bool
    given: Call
    zeroed: nn.Module
    """The copy with zero parameters; the one that passed, if any."""


def find_input(args: Args, kwargs: Kwargs) -> int | str | None:
    """Return the position or name of the first floating-point tensor among the arguments."""
    places: list[tuple[int | str, object]] = [*enumerate(args), *kwargs.items()]
    for place, value in places:
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1:
            return place
    return None


def is_only_argument(where: int | str | None, args: Args, kwargs: Kwargs) -> bool:
    """Whether the argument at `where` is the only one, and is positional."""
    return where == 0 and len(args) == 1 and not kwargs


def is_inside(name: str, outer: str) -> bool:
    """Whether a module is inside another one, by their names; the network itself is `""`."""
    return name != outer and (outer == "" or name.startswith(f"{outer}."))


def repeated_arguments(
    output: Any,  # noqa: ANN401 - whatever a module returns
    args: Args,
    kwargs: Kwargs,
) -> tuple[int | str | None, ...] | None:
    """Return, for each entry of an output tuple after the first, the argument it is, or None.

    For other outputs than tuples, return None.
    """
    if type(output) is not tuple:
        return None
    arguments: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    return tuple(
        next((place for place, value in arguments if value is entry and entry is not None), None)
        for entry in output[1:]
    )


@dataclass(kw_only=True, slots=True)
class Usage:
    """How a module is called in a forward pass."""

    where: int | str | None
    """Position or name of its input among the arguments; None: it has no floating-point input."""
    single: bool
    """Whether the input is the only argument."""
    repeats: tuple[int | str | None, ...] | None = None
    """See `repeated_arguments`."""
    times: int = 1
    """Number of calls."""

    def replaced(self, name: str, output: Literal["input", "zeros"]) -> Replacement:
        """Return how the module with this name is replaced when a branch is removed."""
        assert self.where is not None
        return Replacement(
            name=name,
            output=output,
            argument=self.where,
            single_input=self.single and self.repeats is None,
            repeats=self.repeats,
        )


def largest_module(model: nn.Module, replacements: Iterable[Replacement]) -> str:
    """Return the name of the replaced module with most parameters."""
    names = (one.name for one in replacements)
    return max(names, key=lambda name: count_params(model.get_submodule(name)))


def isolated(tree: Any) -> Any:  # noqa: ANN401 - any nesting
    """Copy arguments with a state, such as a key-value cache; keep tensors and modules."""
    if isinstance(tree, (Tensor, nn.Module)) or tree is None:
        return tree
    if type(tree) is tuple or type(tree) is list:
        return type(tree)(isolated(value) for value in tree)
    if type(tree) is dict:
        return {key: isolated(value) for key, value in tree.items()}
    if isinstance(tree, PLAIN):
        return tree
    with _disable_current_modes():  # a copy is no operation of the network
        return copy.deepcopy(tree)


def first_argument(x: Any, *_: Any, **__: Any) -> Any:  # noqa: ANN401
    """Replace the forward of a module by the identity."""
    return x


def zeros_for(model: nn.Module) -> dict[int, nn.Parameter]:
    """Return a replacement by zeros for each parameter, by its id; all share the same memory.

    It is as large as the largest parameter: kernels are slower without real strides.
    """
    sizes: dict[tuple[torch.dtype, torch.device], int] = {}
    for p in model.parameters():
        if p.is_floating_point():
            sizes[p.dtype, p.device] = max(p.numel(), sizes.get((p.dtype, p.device), 0))
    zeros = {kind: torch.zeros(n, dtype=kind[0], device=kind[1]) for kind, n in sizes.items()}
    return {
        id(p): nn.Parameter(zeros[p.dtype, p.device][: p.numel()].view(p.shape))
        if p.is_floating_point()
        else p
        for p in model.parameters()
    }


def zero_test(module: nn.Module, given: Call) -> tuple[str, Literal["plain", "rich"]]:
    """Call the zeroed module; the returned reason is empty if it returns its input."""
    alone = is_only_argument(given.where, given.args, given.kwargs)
    form: Literal["plain", "rich"] = "plain" if alone else "rich"
    x = given.x
    try:
        output = given.on(module)
    except Exception as err:
        return f"{NOT_ALONE} ({cause_of(err)})", form
    first = first_tensor(output)
    if first is None or first.shape != x.shape:
        return "does not return a tensor of its input's shape", form
    if not torch.allclose(first.to(x.dtype), x, rtol=1e-3, atol=1e-4):
        return "has no identity shortcut: with its weights at zero it does not return x", form
    if isinstance(output, Tensor):
        return "", form
    known = {t.data_ptr() for t in tensors_of([given.args, given.kwargs])} | {first.data_ptr()}
    if any(t.data_ptr() not in known for t in tensors_of(output_parts(output))[1:]):
        return FURTHER, "rich"
    return "", "rich"


def idempotent(module: nn.Module, given: Call) -> bool:
    """Whether the zeroed module does not change its own output, of any sign.

    This holds for the identity, and for a ReLU after the addition. Another activation changes its
    own output again.
    """
    once = first_tensor(given.on(module, torch.randn_like(given.x)))
    assert once is not None
    again = first_tensor(given.on(module, once.clone()))
    return again is not None and torch.allclose(again, once, rtol=1e-3, atol=1e-4)


def branch_test(module: nn.Module, given: Call) -> str:
    """Return why a module is not residual; empty if it adds a value that depends on x.

    The module is called with random weights on two inputs.
    """
    x = given.x
    active = copy_of(
        module,
        {
            id(p): nn.Parameter(random_values(p)) if p.is_floating_point() else p
            for p in module.parameters()
        },
    )
    branches = []
    for point in (x, x.flip(0, -1) * 1.5 if x.ndim > 1 else x * 1.5):
        output = first_tensor(given.on(active, point.clone()))
        assert output is not None
        branches.append(output - point)
    if torch.allclose(branches[0], torch.zeros_like(x), atol=1e-6):
        return "adds nothing to its input"
    if torch.allclose(branches[0], branches[1], rtol=1e-5, atol=1e-6):
        return "adds the same to every input, as a position embedding does"
    return ""


def random_values(parameter: Tensor) -> Tensor:
    """Draw values that keep the scale of activations through any number of layers.

    Matrices keep the variance; scales, biases and gains of a whole branch are around 1.
    """
    blank = torch.empty_like(parameter, memory_format=torch.contiguous_format)
    if parameter.ndim > 1:
        return blank.normal_(std=(parameter.shape[0] / max(1, parameter.numel())) ** 0.5)
    return blank.uniform_(0.5, 1.5) if parameter.numel() > 1 else blank.fill_(1)


def needed_outputs(model: nn.Module, example: Inputs, names: Collection[str]) -> set[str]:
    """Return the modules whose further outputs the network needs; the model is not modified.

    Noise is added to all tensors that a module returns after the first, except its own inputs. They
    are needed if this changes the output of the network. Cost: two forward passes, and one more for
    each module if some are needed.
    """
    if not names:
        return set()
    whole = _run(model, example, ())
    if _same(_run(model, example, names), whole):
        return set()
    return {name for name in names if not _same(_run(model, example, (name,)), whole)}


def _run(model: nn.Module, example: Inputs, names: Collection[str]) -> Tensor | None:
    """Run with noise on the further outputs of some modules; None if this fails."""
    view = in_eval_mode(view_of(model))
    for name in names:
        view.get_submodule(name).register_forward_hook(_add_noise, with_kwargs=True)
    try:
        with preserved_random_state(0), torch.no_grad(), reference_kernels():
            output = call(view, example)
    except Exception:  # the network fails with noise, so it needs the tensors
        return None
    return first_tensor(output)


def _add_noise(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:  # noqa: ANN401 - a hook
    if type(output) is not tuple:
        return output
    given = {tensor.data_ptr() for tensor in tensors_of([args, kwargs, output[0]])}
    return (output[0], *(_with_noise(entry, given) for entry in output[1:]))


def _with_noise(entry: Any, given: set[int]) -> Any:  # noqa: ANN401 - whatever a module returns
    if isinstance(entry, Tensor) and entry.is_floating_point() and entry.data_ptr() not in given:
        return entry + torch.randn_like(entry)
    return entry


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b)


def _matrices(module: nn.Module, *, recurse: bool = True) -> set[int]:
    return {id(p) for p in module.parameters(recurse) if p.ndim > 1}


def _show(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(str(size) for size in shape) + ")"
