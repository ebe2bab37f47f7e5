"""PLS: variable importance in a partial least squares projection onto the classes."""

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from layerticket.batch import Batch, classes_of, size_of
from layerticket.blocks.block import Blocks
from layerticket.criteria.features import block_activations
from layerticket.errors import LayerticketError

Array = NDArray[np.float64]


def pls(
    model: nn.Module,
    blocks: Blocks,
    batch: Batch,
    *,
    n_components: int = 2,
    micro_batches: int = 1,
) -> dict[str, float]:
    """Score a block by the importance of its features for the class: their mean VIP.

    Features are the block's outputs averaged over positions, one per channel; those of all blocks
    are the columns of the matrix X (N, D). Partial least squares projects X onto A components that
    covary most with the one-hot classes. With scores ``t_a``, weights ``w_a`` and target loadings
    ``q_a``, a component explains ``s_a = (t_a . t_a) (q_a . q_a)`` of the classes, and

        VIP_j^2 = D * sum_a s_a (w_ja / ||w_a||)^2 / sum_a s_a .

    A block's score is the mean over its features; the mean square over all features is 1, and a
    feature that is equal for all examples has VIP 0.

    Cost: one forward pass, and a PLS of N x D values on the CPU.

    Args:
        model: Trained network.
        blocks: Removable blocks from `find_blocks`.
        batch: Inputs and class indices, N examples; in a dict the classes are `labels`.
        n_components: A; at most the number of examples and of features.
        micro_batches: Number of parts to process the batch in.

    Returns:
        Block name -> mean VIP >= 0, dimensionless.

    Raises:
        LayerticketError: If there is not one class per example, all examples have the same class,
            or a projection with this many components does not exist.

    References:
        [1] Jordao, Lie and Schwartz, "Discriminative Layer Pruning for Convolutional Neural
        Networks", IEEE Journal of Selected Topics in Signal Processing 14(4), 2020.
        [2] Wold, Sjöström and Eriksson, "PLS-regression: a basic tool of chemometrics", 2001.
        Our choices: average pooling, and one projection for the features of all blocks.
    """
    classes = _classes_of(batch)
    pooled = block_activations(model, blocks, batch, _pooled, micro_batches)
    features = torch.cat([part.cpu() for part in pooled.values()], 1).numpy()  # (N, D)
    importance = _vip(features, classes, n_components)
    scores, start = {}, 0
    for name, part in pooled.items():
        stop = start + part.shape[1]
        scores[name] = float(importance[start:stop].mean())
        start = stop
    return scores


def _pooled(output: Tensor) -> Tensor:
    """Average over positions: (n, C, H, W) -> (n, C), tokens (n, T, D) -> (n, D)."""
    if output.ndim > 3:
        return output.flatten(2).mean(2, dtype=torch.double)
    return output.mean(1, dtype=torch.double) if output.ndim == 3 else output.double()


def _classes_of(batch: Batch) -> Array:
    """Return the classes one-hot, (N, K), without columns of classes that do not occur."""
    targets = classes_of(batch)
    if targets is None:
        other = batch.get("labels") if isinstance(batch, Mapping) else batch[1]
        given = f"{other.dtype} {tuple(other.shape)}" if isinstance(other, Tensor) else "none"
        raise LayerticketError(
            f"pls needs the class of every example, {size_of(batch)} integers; targets are "
            f"{given}. Give (inputs, classes), or a dict with 'labels', or use kl or cka."
        )
    present, index = torch.unique(targets.cpu(), return_inverse=True)
    if len(present) < 2:
        raise LayerticketError(
            f"pls needs several classes, but all {len(targets)} examples have the same class. Give "
            "a batch with several classes."
        )
    one_hot: Array = F.one_hot(index).double().numpy()
    return one_hot


def _vip(features: Array, classes: Array, components: int) -> Array:
    """Return the variable importance in projection of every feature, (D,)."""
    from sklearn.cross_decomposition import PLSRegression

    limit = min(features.shape)
    if not 1 <= components <= limit:
        raise LayerticketError(
            f"n_components is {components}; allowed are 1 to {limit}, the smaller of "
            f"{features.shape[0]} examples and {features.shape[1]} features."
        )
    if not np.isfinite(features).all():
        raise LayerticketError("the output of a block is not finite; pls cannot use it.")
    constant = features.std(0) <= 1e-9 * np.abs(features).max(0)
    features = np.where(constant, 0, features)  # or scaling would turn rounding into a feature
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            fitted = PLSRegression(components, max_iter=10_000, tol=1e-14).fit(features, classes)
        except Warning as err:
            raise LayerticketError(
                f"a projection onto {components} components does not exist or did not converge "
                f"({err}). Use fewer n_components, or more and more varied examples."
            ) from err
    scores, weights, loadings = fitted.x_scores_, fitted.x_weights_, fitted.y_loadings_
    explained = (scores**2).sum(0) * (loadings**2).sum(0)  # (A,)
    shares = (weights / np.linalg.norm(weights, axis=0)) ** 2 @ explained / explained.sum()
    importance: Array = np.sqrt(features.shape[1] * shares)
    return importance
