"""CKA: how much the network's representation changes when a block is removed."""

import torch
from torch import Tensor, nn

from layerticket.batch import Batch, inputs_of, size_of, split
from layerticket.blocks.block import Blocks
from layerticket.criteria.leave_one_out import LeaveOneOut
from layerticket.errors import LayerticketError


def cka(
    model: nn.Module, blocks: Blocks, batch: Batch, *, micro_batches: int = 1
) -> dict[str, float]:
    """Score a block by ``1 - CKA(X, Y)``: the representation with the block, and without it.

    X (N, D) is the input of the network's last layer: of the last called module with a weight
    matrix, after every removable block; the output of the network if there is none. Logits are not
    used because K logits have at most K directions, and a language model's logits are large. See
    `linear_cka` for the formula.

    Cost: one forward pass, and for every block the part of one after it: about half of the L passes
    of a plain loop. Memory: L + 1 representations, in addition to `LeaveOneOut`.

    Args:
        model: Trained network.
        blocks: Removable blocks from `find_blocks`.
        batch: Only the inputs are read; N >= 3 examples, more are better.
        micro_batches: Number of parts to process the batch in.

    Returns:
        Block name -> dissimilarity from 0 to 1.

    Raises:
        LayerticketError: If there are fewer than three examples, whose CKA is 1 for any network.

    References:
        [1] Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019,
        eq. 3-4. They compare networks; removing blocks by it is our own use.
    """
    if size_of(batch) < 3:
        raise LayerticketError(
            f"cka compares the distances between examples; {size_of(batch)} examples are too few. "
            "Give at least 3, better 100."
        )
    full: list[Tensor] = []
    without: dict[str, list[Tensor]] = {block.name: [] for block in blocks}
    for _, part in split(batch, micro_batches):
        network = LeaveOneOut(model, blocks, inputs_of(part))
        full.append(network.full.features)
        for name, parts in without.items():
            parts.append(network.without(name).features)
    reference = torch.cat(full)
    return {name: 1 - linear_cka(reference, torch.cat(parts)) for name, parts in without.items()}


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Return the linear centered kernel alignment of two representations, from 0 to 1.

    With columns centered over the examples, ``CKA = ||Y'X||^2 / (||X'X|| ||Y'Y||)`` in Frobenius
    norms, computed from the (N, N) matrices ``XX'`` and ``YY'`` in float64, which is equivalent. A
    representation that is the same for every example has CKA 0 with any other.

    Args:
        x: (N, ...), flattened to one row per example.
        y: (N, ...), of any width.
    """
    return gram_cka(center_gram(x), center_gram(y))


def gram_cka(x: Tensor, y: Tensor) -> float:
    """Return CKA from the matrices (N, N) of `center_gram`."""
    norms = x.norm() * y.norm()
    return ((x * y).sum() / norms).item() if norms > 0 else 0.0


def center_gram(x: Tensor) -> Tensor:
    """Return the inner products (N, N) of the examples (N, ...), with centered columns, float64."""
    rows = x.double().flatten(1)
    rows = rows - rows.mean(0)
    return rows @ rows.T  # (N, N)
