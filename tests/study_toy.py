"""A run on the toy data."""

from layerticket.study.record import RunConfig
from layerticket.training.recipe import Recipe

__all__ = ["CONFIG"]

CONFIG = RunConfig(
    model="toy",
    data="toy",
    data_fingerprint="f" * 64,
    validation_fraction=0.2,
    recipe=Recipe(epochs=2, batch_size=16, precision="fp32"),
    seed=3,
)
