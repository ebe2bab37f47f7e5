"""The optimizer of a recipe. Enters: a model and a recipe. Leaves: SGD over two groups."""

from torch import nn
from torch.optim import SGD

from layerticket.errors import LayerticketError
from layerticket.training.recipe import Recipe

__all__ = ["make_optimizer", "parameter_groups"]


def parameter_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split the trainable parameters by whether weight decay applies.

    Args:
        model: The network; not modified.

    Returns:
        (decayed, kept free): parameters of two and more dimensions, and the rest (norms, biases).

    Raises:
        LayerticketError: If no parameter is trainable.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise LayerticketError(
            "the model has no trainable parameter, so there is nothing to train. "
            "Set requires_grad on the parameters that should learn."
        )
    decayed = [parameter for parameter in trainable if parameter.ndim >= 2]
    return decayed, [parameter for parameter in trainable if parameter.ndim < 2]


def make_optimizer(model: nn.Module, recipe: Recipe, *, fused: bool = True) -> SGD:
    """SGD of the recipe; the learning rate is set anew at every step by the loop.

    Args:
        model: The network; not modified.
        recipe: Momentum and weight decay.
        fused: Whether one kernel updates all weights; torch has none for sharded ones.
    """
    decayed, free = parameter_groups(model)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return SGD(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=fused,
    )
