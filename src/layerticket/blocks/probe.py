"""The zero-function test of every module of a network, on the arguments it was called with.

With all parameters at zero a residual block returns its input; with random ones it adds something
that depends on the input.
"""

import copy
from collections import OrderedDict
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerticket.batch import (
    Inputs,
    call,
    first_tensor,
    number_types,
    output_parts,
    tensors_of,
)
from layerticket.blocks.kinds import PLAIN, kind_of
from layerticket.blocks.norms import find_norms, find_pointwise
from layerticket.errors import ModelError, short
from layerticket.modules import (
    copy_of,
    in_eval_mode,
    preserved_random_state,
    reference_kernels,
    view_of,
)
from layerticket.progress import told

FURTHER = "returns further outputs that later modules may need"
NOT_ALONE = "cannot be run alone"
SIDE = 64
"""Width and height of the maps that modules are tested on, where theirs are larger."""
NO_TENSOR = "takes no floating-point tensor"
PASSED = ("", FURTHER)
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


@dataclass(slots=True)
class Finding:
    """What running the network told about one module."""

    order: int
    """Place in the order of execution."""
    shape: tuple[int, ...] = ()
    """Shape of the first floating-point input, without the batch dimension."""
    call: Literal["plain", "rich"] = "plain"
    post_norm: bool = False
    """Whether it passes only with its normalizations, or activations as well, at identity."""
    composite: bool = False
    """Whether weights lie in its children."""
    calls: int = 0
    reason: str = "is never called in a forward pass on the example"
    """Why it must stay; empty for a module that passes."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What the zero-function test told about every module that holds a weight matrix."""

    findings: dict[str, Finding]
    calls: "dict[str, Call]"
    """How each module that passed was called."""
    zeroed: dict[str, nn.Module]
    """Each module that passed, in the form in which it did: its parameters at zero."""


def probe(model: nn.Module, example: Inputs) -> Probed:
    """Put every module with weights to the zero-function test; the model is not modified.

    The network runs once, and how its modules are called is written down. Then each is called by
    itself; of modules that differ only in the values of their weights, only one. Cost: one forward
    pass, and about five more for the modules of each level of nesting that are called.

    Raises:
        ModelError: If the model does not run on the example.
    """
    with preserved_random_state(0):
        recorder = in_eval_mode(view_of(model))
        prober = _Prober(model, find_norms(model, example), find_pointwise(model))
        for name, module in recorder.named_modules():
            if name in prober.findings:
                module.register_forward_pre_hook(prober.enter(name), with_kwargs=True)
                module.register_forward_hook(prober.leave(name))
        try:
            with torch.no_grad(), reference_kernels():
                call(recorder, example)
        except ModelError as err:
            raise ModelError(
                f"{type(model).__name__} does not run on the example given ({cause_of(err)}). "
                f"{number_types(model, example) or _advice(example)}"
            ) from err.__cause__
        with torch.no_grad(), reference_kernels(), told("testing modules") as tell:
            inner_first = reversed(prober.seen.items())
            for number, (name, seen) in enumerate(inner_first):
                tell(number / len(prober.seen), name)
                prober.examine(name, seen)
    return Probed(prober.findings, prober.calls, prober.passed)


def runs(model: nn.Module, example: Inputs) -> str:
    """Return the empty string when the model runs on the example, else what went wrong."""
    try:
        with torch.no_grad(), reference_kernels():
            call(model, example)
    except Exception as err:
        return cause_of(err)
    return ""


def cause_of(err: Exception) -> str:
    """Return what a network raised, in one line."""
    cause = err.__cause__ or err
    return f"{type(cause).__name__}: {short(cause)}"


def _advice(example: Inputs) -> str:
    """Say what an example should be; a pair with integers at its end is likely a whole batch."""
    last = example[-1] if isinstance(example, (tuple, list)) and len(example) == 2 else None
    if isinstance(last, Tensor) and not last.is_floating_point():
        return (
            "A tuple is taken for the positional inputs of the forward; of a batch (inputs, "
            "targets) give the inputs alone: batch[0]."
        )
    return "Give inputs its forward takes: a tensor, a tuple or a dict."


class _Prober:
    """Holds the test copies of a model while one forward pass visits its modules."""

    def __init__(self, model: nn.Module, norms: set[str], pointwise: set[str]) -> None:
        self.model = model
        # by their ids, for one module may stand in several places
        self.norms = {id(model.get_submodule(name)) for name in norms}
        self.pointwise = {id(model.get_submodule(name)) for name in pointwise}
        self.zeros = zeros_for(model)
        self.findings = {
            name: Finding(order=-1, composite=bool(_matrices(module) - _own_matrices(module)))
            for name, module in model.named_modules()
            if name and _matrices(module)
        }
        self.visited = 0
        self.seen: dict[str, Seen] = {}
        self.calls: dict[str, Call] = {}
        self.passed: dict[str, nn.Module] = {}
        self.outcomes: dict[Hashable, Outcome] = {}
        """The result of the first module of each kind."""

    def enter(self, name: str) -> Any:  # noqa: ANN401 - a hook
        def hook(module: nn.Module, args: Args, kwargs: Kwargs) -> None:
            finding = self.findings[name]
            finding.calls += 1
            if finding.calls > 1:
                finding.reason = "is called more than once in a forward pass"
                self.seen.pop(name, None)
                return
            finding.order, self.visited = self.visited, self.visited + 1
            where = find_input(args, kwargs)
            if where is None:
                finding.reason = NO_TENSOR
                return
            self.seen[name] = Seen.of(module, where, args, kwargs)
            finding.shape = self.seen[name].shape[1:]
            finding.reason = ""

        return hook

    def leave(self, name: str) -> Any:  # noqa: ANN401 - a hook
        def hook(_: nn.Module, __: Args, output: Any) -> None:  # noqa: ANN401
            finding, first = self.findings[name], first_tensor(output)
            if finding.calls == 1 and first is not None:
                shape = tuple(first.shape[1:])
                if finding.shape and shape != finding.shape:
                    finding.reason = f"changes shape {_show(finding.shape)} -> {_show(shape)}"

        return hook

    def examine(self, name: str, seen: "Seen") -> None:
        """Test one module, called as the network called it, or a module like it."""
        finding = self.findings[name]
        if finding.reason:  # it changes the shape
            return
        if seen.single:
            finding.reason = "is a single layer, not a residual block"
            return
        key: Hashable = seen.kind_of(self.model.get_submodule(name)) or name
        if key not in self.outcomes:
            passes = self._is_passing_sequence(name)
            self.outcomes[key] = self._passing(name, seen) if passes else self._test(name, seen)
        outcome = self.outcomes[key]
        finding.reason, finding.call, finding.post_norm = (
            outcome.reason,
            outcome.form,
            outcome.post_norm,
        )
        if finding.reason in PASSED:
            self.calls[name], self.passed[name] = outcome.given, outcome.zeroed

    def _is_passing_sequence(self, name: str) -> bool:
        """Whether a module does no more than call modules that pass, one after the other."""
        module = self.model.get_submodule(name)
        inner = [self.findings.get(f"{name}.{child}") for child in module._modules]
        plain = type(module).forward is nn.Sequential.forward and "forward" not in vars(module)
        return plain and bool(inner) and all(one and not one.reason for one in inner)

    def _passing(self, name: str, seen: "Seen") -> "Outcome":
        """Return the result of a sequence of modules that pass: it passes."""
        inner = {c: f"{name}.{c}" for c in self.model.get_submodule(name)._modules}
        zero = nn.Sequential(OrderedDict((c, copy_of(self.passed[n])) for c, n in inner.items()))
        post_norm = any(self.findings[n].post_norm for n in inner.values())
        return Outcome("", "plain", post_norm, seen.call(SIDE), zero)

    def _test(self, name: str, seen: "Seen") -> "Outcome":
        """Put a module to the tests."""
        given = seen.call(SIDE)
        zero = passed = self._zeroed(name)
        post_norm = False
        reason, form = zero_test(zero, given)
        if reason.startswith(NOT_ALONE) and given.x.shape != seen.shape:
            given = seen.call()
            reason, form = zero_test(zero, given)
        for identities in (self.norms, self.norms | self.pointwise):
            if reason not in PASSED:
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
        """Copy a module with all parameters zero; some modules in it return their input."""
        module = self.model.get_submodule(name)
        zero = in_eval_mode(
            copy_of(module, {id(p): self.zeros[id(p)] for p in module.parameters()})
        )
        for inner, part in module.named_modules():
            if id(part) in identities:
                zero.get_submodule(inner).forward = first_argument
        return zero


@dataclass(frozen=True, slots=True)
class Seen:
    """How a module was called, its input left out; state such as a cache is copied."""

    where: int | str
    args: Args
    kwargs: Kwargs
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    single: bool
    """Whether it is a layer of PyTorch without parts."""

    @classmethod
    def of(cls, module: nn.Module, where: int | str, args: Args, kwargs: Kwargs) -> "Seen":
        """Write a call down, whose input stands at `where`."""
        x: Tensor = args[where] if isinstance(where, int) else kwargs[where]
        if isinstance(where, int):
            args = (*args[:where], None, *args[where + 1 :])
        else:
            kwargs = {**kwargs, where: None}
        own = type(module).__module__.startswith("torch.nn.") and not list(module.children())
        return cls(where, isolated(args), isolated(kwargs), tuple(x.shape), x.dtype, x.device, own)

    def kind_of(self, module: nn.Module) -> Hashable | None:
        """Return a key that is equal for calls with the same result; None if there is none."""
        if any(not isinstance(value, PLAIN) for value in (*self.args, *self.kwargs.values())):
            return None
        named = tuple(self.kwargs.items())
        return self.where, self.args, named, self.shape, self.dtype, self.device, kind_of(module)

    def call(self, side: int | None = None) -> "Call":
        """Put a generic tensor in the place of the input; images at most `side` wide and high."""
        shape = self.shape
        alone = self.where == 0 and len(self.args) == 1 and not self.kwargs
        if side is not None and alone and len(shape) == 4:
            shape = (*shape[:2], *(min(size, side) for size in shape[2:]))
        x = torch.rand(shape, dtype=self.dtype, device=self.device) + 0.5
        return Call(x, self.where, self.args, self.kwargs)


@dataclass(frozen=True, slots=True)
class Call:
    """How a module was called, with a generic tensor in the place of its input.

    It is non-negative, so that a ReLU behind the addition lets it pass, and nowhere constant, so
    that a gate cannot pass for a block.
    """

    x: Tensor
    where: int | str
    args: Args
    kwargs: Kwargs

    def on(self, module: nn.Module, x: Tensor | None = None) -> Any:  # noqa: ANN401
        """Call a module so, on the generic tensor or on another one."""
        x = self.x.clone() if x is None else x
        args, kwargs = isolated(self.args), isolated(self.kwargs)
        if isinstance(self.where, int):
            args = (*args[: self.where], x, *args[self.where + 1 :])
        else:
            kwargs = {**kwargs, self.where: x}
        return module(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of the tests of one module, and what it was tested with."""

    reason: str
    """Empty, or FURTHER, if it passed."""
    form: Literal["plain", "rich"]
    post_norm: bool
    given: Call
    zeroed: nn.Module
    """In the form in which it passed."""


def find_input(args: Args, kwargs: Kwargs) -> int | str | None:
    """Return where the first floating-point tensor stands among the arguments."""
    places: list[tuple[int | str, object]] = [*enumerate(args), *kwargs.items()]
    for place, value in places:
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1:
            return place
    return None


def isolated(tree: Any) -> Any:  # noqa: ANN401 - any nesting
    """Copy stateful arguments (a key-value cache); keep tensors and modules as they are."""
    if isinstance(tree, (Tensor, nn.Module)) or tree is None:
        return tree
    if type(tree) is tuple or type(tree) is list:
        return type(tree)(isolated(value) for value in tree)
    if type(tree) is dict:
        return {key: isolated(value) for key, value in tree.items()}
    return copy.deepcopy(tree)


def first_argument(x: Any, *_: Any, **__: Any) -> Any:  # noqa: ANN401
    """Stand in for a module's forward: the identity."""
    return x


def zeros_for(model: nn.Module) -> dict[int, nn.Parameter]:
    """Return what stands for each parameter, by its id: as many zeros, which take no memory.

    Stacked matrices (experts) share one stretch of zeros: their kernels want true strides.
    """
    stacks = [p.numel() for p in model.parameters() if p.ndim == 3]
    zeros: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def zero(p: nn.Parameter) -> nn.Parameter:
        if p.ndim != 3:
            return nn.Parameter(torch.zeros((), dtype=p.dtype, device=p.device).expand(p.shape))
        kind = p.dtype, p.device
        if kind not in zeros:
            zeros[kind] = torch.zeros(max(stacks), dtype=p.dtype, device=p.device)
        return nn.Parameter(zeros[kind][: p.numel()].view(p.shape))

    return {id(p): zero(p) if p.is_floating_point() else p for p in model.parameters()}


def zero_test(module: nn.Module, given: Call) -> tuple[str, Literal["plain", "rich"]]:
    """Call the zeroed module; the reason is empty when it returns its input."""
    alone = given.where == 0 and len(given.args) == 1 and not given.kwargs
    form: Literal["plain", "rich"] = "plain" if alone else "rich"
    x = given.x
    try:
        output = given.on(module)
    except Exception as err:
        return f"{NOT_ALONE} ({type(err).__name__}: {err})".splitlines()[0], form
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
    """Tell whether the zeroed module leaves alone what it returns itself, whatever the signs.

    So does an identity, and a ReLU behind the addition, which lets pass what an earlier one let
    pass; another activation changes its own output again.
    """
    once = first_tensor(given.on(module, torch.randn_like(given.x)))
    assert once is not None
    again = first_tensor(given.on(module, once.clone()))
    return again is not None and torch.allclose(again, once, rtol=1e-3, atol=1e-4)


def branch_test(module: nn.Module, given: Call) -> str:
    """With random weights the module must add something, and something that depends on x."""
    x = given.x
    active = copy_of(module)
    for owner in active.modules():
        for key, parameter in owner._parameters.items():
            if parameter is not None and parameter.is_floating_point():
                owner._parameters[key] = nn.Parameter(lively(parameter))
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


def lively(parameter: Tensor) -> Tensor:
    """Draw values that neither mute nor drown what flows through, however many layers follow.

    Matrices keep the variance; vectors (scales, biases) and gains of a whole branch lie around 1.
    """
    blank = torch.empty_like(parameter, memory_format=torch.contiguous_format)
    if parameter.ndim > 1:
        return blank.normal_(std=(parameter.shape[0] / max(1, parameter.numel())) ** 0.5)
    return blank.uniform_(0.5, 1.5) if parameter.numel() > 1 else blank.fill_(1)


def needed_outputs(model: nn.Module, example: Inputs, names: Collection[str]) -> set[str]:
    """Return the modules whose further outputs the network needs; the model is not modified.

    The tensors a module returns after the first, and was not given, are disturbed; they are needed
    where the network then returns something else. Cost: two forward passes, and one more for each
    module if not all of them can be spared.
    """
    if not names:
        return set()
    whole = _run(model, example, ())
    if _same(_run(model, example, names), whole):
        return set()
    return {name for name in names if not _same(_run(model, example, (name,)), whole)}


def _run(model: nn.Module, example: Inputs, names: Collection[str]) -> Tensor | None:
    """Run with the further outputs of some modules disturbed; None where that fails."""
    view = in_eval_mode(view_of(model))
    for name in names:
        view.get_submodule(name).register_forward_hook(_disturb, with_kwargs=True)
    try:
        with preserved_random_state(0), torch.no_grad(), reference_kernels():
            output = call(view, example)
    except Exception:  # the network cannot do with what it was given: it needs the true tensors
        return None
    return first_tensor(output)


def _disturb(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:  # noqa: ANN401 - a hook
    if type(output) is not tuple:
        return output
    given = {tensor.data_ptr() for tensor in tensors_of([args, kwargs, output[0]])}
    return (output[0], *(_disturbed(entry, given) for entry in output[1:]))


def _disturbed(entry: Any, given: set[int]) -> Any:  # noqa: ANN401 - whatever a module returns
    if isinstance(entry, Tensor) and entry.is_floating_point() and entry.data_ptr() not in given:
        return entry + torch.randn_like(entry)
    return entry


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b)


def _matrices(module: nn.Module) -> set[int]:
    return {id(p) for p in module.parameters() if p.ndim > 1}


def _own_matrices(module: nn.Module) -> set[int]:
    return {id(p) for p in module.parameters(recurse=False) if p.ndim > 1}


def _show(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(str(size) for size in shape) + ")"
