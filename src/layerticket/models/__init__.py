"""Networks by name: the CIFAR ResNets, timm, torchvision, and any function of yours."""
