"""The corruptions of CIFAR-10-C, batched and seeded: 15 standard ones, 4 extra, 5 severities."""

from layerticket.data.corruptions.recipe import (
    EXTRA,
    SEVERITIES,
    STANDARD,
    all_severities,
    corrupt,
    obstacle,
)

__all__ = ["EXTRA", "SEVERITIES", "STANDARD", "all_severities", "corrupt", "obstacle"]
