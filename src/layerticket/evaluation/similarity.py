"""Similarity of the representations of two networks, layer by layer: linear CKA."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from layerticket.batch import Inputs, call, first_tensor, logits_of, size_of
from layerticket.criteria.cka import center_gram, gram_cka
from layerticket.errors import LayerticketError
from layerticket.evaluation.accuracy import evaluating

STEM, HEAD = "stem", "head"


def similarity(
    dense: nn.Module,
    other: nn.Module,
    names: Sequence[str],
    inputs: Inputs,
    *,
    counterparts: Mapping[str, str] | None = None,
) -> dict[str, float | None]:
    """Compute the similarity of two networks on the same inputs, layer by layer.

    For every layer ``CKA = ||Y'X||^2 / (||X'X|| ||Y'Y||)`` in Frobenius norms, where X and Y have a
    row for each example, centered over the examples: linear CKA on all examples at once (the full,
    not the minibatch estimate; it is biased upwards if a layer is wider than N, equally for all
    networks compared). Both networks are in evaluation mode and are not modified.

    Cost: two forward passes, and N^2 D multiplications for a layer of width D. Memory: the widest
    layer, and one (N, N) matrix per layer.

    Args:
        dense: The dense network, trained.
        other: The other network.
        names: Layers to compare, as in ``named_modules()`` of the dense network; the input of the
            first is compared as `stem`, the logits as `head`.
        inputs: Inputs of both networks, at least 3 examples.
        counterparts: Names of the layers in the other network; a layer left out has no
            counterpart. By default every layer keeps its name, and a missing one has no
            counterpart. `stem` is the layer of the other network whose input is its stem; by
            default the counterpart of the first.

    Returns:
        `stem`, the names and `head` -> CKA from 0 to 1; None for a layer that the other does not
        have.

    Raises:
        LayerticketError: If there are fewer than three examples, or a layer is not called.

    References:
        Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019,
        eq. 3-4. arXiv:1905.00414.
    """
    if size_of(inputs) < 3:
        raise LayerticketError(
            f"{size_of(inputs)} examples always give CKA 1; give at least 3, better 500."
        )
    called = {name: name for name in names} if counterparts is None else dict(counterparts)
    first = next(iter(names), "")
    stem = called.pop(STEM, called.get(first))
    own = representations(dense, names, inputs, stem=first)
    found = representations(other, list(called.values()), inputs, stem=stem)
    theirs = {n: found[c] for n, c in (called | {STEM: STEM, HEAD: HEAD}).items() if c in found}
    if missing := [name for name in (*names, STEM, HEAD) if name not in own]:
        raise LayerticketError(
            f"the dense network has no layer {missing[0]!r} that is called. Give names of blocks."
        )
    return {
        name: gram_cka(own[name], theirs[name]) if name in theirs else None
        for name in (STEM, *names, HEAD)
    }


def representations(
    model: nn.Module, names: Sequence[str], inputs: Inputs, *, stem: str | None = None
) -> dict[str, Tensor]:
    """Return the centered Gram matrix (N, N) of every layer that the network calls.

    A removed block, or an identity in its place, has no representation. The entry `stem` is the
    input of the layer of that name; None: no such entry.
    """
    grams: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    there = [n for n in names if n in modules and not isinstance(modules[n], nn.Identity)]

    def leave(name: str, _module: nn.Module, _args: Any, output: Any) -> None:  # noqa: ANN401
        tensor = first_tensor(output)
        if tensor is not None:
            grams[name] = center_gram(tensor)

    def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:  # noqa: ANN401
        tensor = first_tensor(args) if args else first_tensor(tuple(kwargs.values()))
        if tensor is not None:
            grams[STEM] = center_gram(tensor)

    with ExitStack() as hooks, evaluating(model), torch.inference_mode():
        for name in there:
            hooks.enter_context(modules[name].register_forward_hook(partial(leave, name)))
        if stem and stem in modules:
            hooks.enter_context(modules[stem].register_forward_pre_hook(enter, with_kwargs=True))
        grams[HEAD] = center_gram(logits_of(call(model, inputs)))
    return grams
