"""The residual networks of He et al. (2016) for small images, 6n + 2 layers deep, and ResNet-14.

Letters: N examples, C channels, H and W pixels, K classes. A 3x3 convolution, three stages of n
basic blocks with 16, 32 and 64 channels (each stage after the first halves H and W), the mean over
the pixels, a linear classifier. Weights are as initialized; none are loaded.

References:
    He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2;
    initialization: the same authors, "Delving Deep into Rectifiers", ICCV 2015.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from layerticket.errors import LayerticketError
from layerticket.models.names import DEPTHS

WIDTHS = (16, 32, 64)


class PaddedShortcut(nn.Module):
    """A shortcut without weights: every `stride`-th pixel, with new channels of zeros appended.

    This is option A of the paper.
    """

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels = new_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + new_channels, ceil(H / stride), ceil(W / stride))."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.new_channels))

    def extra_repr(self) -> str:
        """Return the two numbers for ``print(model)``."""
        return f"new_channels={self.new_channels}, stride={self.stride}"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each with batch normalization, added to a shortcut; ReLU last."""

    def __init__(self, entering: int, leaving: int, stride: int, *, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(entering, leaving, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(leaving)
        self.conv2 = nn.Conv2d(leaving, leaving, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(leaving)
        self.shortcut: nn.Module = nn.Identity()
        if (entering, stride) != (leaving, 1):
            self.shortcut = (
                nn.Sequential(
                    nn.Conv2d(entering, leaving, 1, stride=stride, bias=False),
                    nn.BatchNorm2d(leaving),
                )
                if projection
                else PaddedShortcut(leaving - entering, stride)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, entering, H, W) to (N, leaving, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """A CIFAR ResNet of one of the published depths."""

    def __init__(
        self, depth: int, *, classes: int, channels: int = 3, projection: bool = False
    ) -> None:
        """Build and initialize the network from PyTorch's global random state.

        Args:
            depth: Layers with weights, shortcuts not counted; one of `DEPTHS`.
            classes: K, the number of outputs.
            channels: C of the images.
            projection: Whether shortcuts between stages are 1x1 convolutions with batch
                normalization (option B of the paper) or sub-sampling and zeros (option A).

        Raises:
            LayerticketError: If `depth` is not one of the published ones.
        """
        if depth not in DEPTHS:
            raise LayerticketError(
                f"a CIFAR ResNet of depth {depth} is not available. "
                f"Available: {', '.join(f'resnet{d}' for d in DEPTHS)}. "
                "For ImageNet networks use timm:NAME or torchvision:NAME."
            )
        super().__init__()
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        count = (depth - 2) // 6
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], count, 1, projection=projection)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], count, 2, projection=projection)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], count, 2, projection=projection)
        self.fc = nn.Linear(WIDTHS[2], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, K)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = x.mean((2, 3))  # (N, 64)
        logits: Tensor = self.fc(x)
        return logits


def _stage(
    entering: int, leaving: int, count: int, stride: int, *, projection: bool
) -> nn.Sequential:
    """Return a stage of `count` blocks; the first one changes the shape."""
    first = BasicBlock(entering, leaving, stride, projection=projection)
    rest = (BasicBlock(leaving, leaving, 1, projection=projection) for _ in range(count - 1))
    return nn.Sequential(first, *rest)
