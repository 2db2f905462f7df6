"""CIFAR ResNets (He et al. 2015, section 4.2) with a width multiplier.

Images (batch, channels, h, w), normalised with `mean` and `std` -> logits (batch, classes).
Where a block changes the resolution its skip is a 3x3 convolution with BatchNorm, the variant of the REPAIR
experiments (Jordan et al. 2022), so that every residual stream is made of convolutions alone.
"""

from torch import Tensor, nn

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)  # of the training images, in [0, 1]
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip, added before the last ReLU."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = nn.Sequential()
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(channels),
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(residual + self.downsample(x))


class CifarResNet(nn.Module):
    """ResNet of depth 6n + 2 in three stages of 16, 32 and 64 channels, each times `width`."""

    def __init__(
        self,
        depth: int = 20,
        width: int = 1,
        classes: int = 10,
        in_channels: int = 3,
        mean: tuple[float, ...] = CIFAR10_MEAN,
        std: tuple[float, ...] = CIFAR10_STD,
    ) -> None:
        if (depth - 2) % 6:
            raise ValueError(f"depth {depth} is not 6n + 2: use 20, 32, 44, 56 or 110")
        super().__init__()
        self.mean, self.std = mean, std
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, 16 * width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16 * width)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16 * width, 16 * width, blocks, stride=1)
        self.layer2 = _stage(16 * width, 32 * width, blocks, stride=2)
        self.layer3 = _stage(32 * width, 64 * width, blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(channels_in, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))
