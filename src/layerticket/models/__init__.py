"""Networks by name: the CIFAR ResNets, timm, torchvision, and any function of yours."""

from layerticket.models.resolver import build_model, model_names

__all__ = ["build_model", "model_names"]
