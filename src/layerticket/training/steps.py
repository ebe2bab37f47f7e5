"""Training steps without a training, to be timed. Enters: networks. Leaves: steps to be taken.

The steps are those of `fit`, down to kernels, precision and optimizer; the networks are copies.
"""

import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from layerticket.data.dataset import Dataset
from layerticket.modules import copy_of
from layerticket.training.checkpoint import Start
from layerticket.training.device import (
    compile_pays,
    forked_random_state,
    own_accelerator,
    place,
    repeatable_kernels,
    resolve_device,
    resolve_precision,
)
from layerticket.training.fit import Session
from layerticket.training.recipe import Recipe

# So small that the weights stay where they are: what a step costs must not drift.
_RATE = 1e-6


class Rehearsal:
    """One network, ready to take steps."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._batches = itertools.chain.from_iterable(map(session.batches, itertools.count()))
        self._batch = next(self._batches)
        session.model.train()
        self.steps_per_epoch = session.steps

    def fetch(self) -> None:
        """Fetch the next batch, through all epochs."""
        self._batch = next(self._batches)

    def step(self) -> None:
        """Train on the batch at hand and wait until the device is done."""
        self._session.step(*self._batch, _RATE)
        if self._session.device.type == "cuda":
            torch.cuda.synchronize(self._session.device)


@contextmanager
def rehearse(
    models: Mapping[str, nn.Module], dataset: Dataset, recipe: Recipe, *, device: str = "auto"
) -> Iterator[dict[str, Rehearsal]]:
    """Lend training steps of several networks side by side.

    Args:
        models: Networks by name; they are copied, so none is modified.
        dataset: Its training split is drawn from.
        recipe: How they would be trained; its length decides whether they are compiled.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Yields:
        A `Rehearsal` for each network, under its name.

    Raises:
        LayerticketError: If the device is absent or nothing is trainable.
    """
    where = resolve_device(device)
    precision = resolve_precision(recipe.precision, where)
    steps = max(1, len(dataset.train) // recipe.batch_size) * recipe.epochs
    compiled = compile_pays(recipe.compile, steps, where)
    with ExitStack() as stack:
        stack.enter_context(repeatable_kernels())
        stack.enter_context(forked_random_state(where))
        accelerator = stack.enter_context(own_accelerator(where, precision, compiled=compiled))
        lent = {}
        for name, model in models.items():
            own = copy_of(model)
            place(own, where, channels_last=recipe.channels_last)
            lent[name] = Rehearsal(Session(own, dataset, recipe, 0, where, accelerator, Start()))
        yield lent
