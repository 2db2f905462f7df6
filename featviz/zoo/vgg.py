"""VGG-11 and VGG-16 for CIFAR (Simonyan & Zisserman 2014; one linear layer, as in the REPAIR experiments).

Images (batch, channels, 32, 32), normalised with `mean` and `std` -> logits (batch, classes).
"""

from torch import Tensor, nn

from featviz.zoo.resnet import CIFAR10_MEAN, CIFAR10_STD

STAGES: dict[int, tuple[tuple[int, ...], ...]] = {
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3),
}


class CifarVGG(nn.Module):
    """Five stages of 3x3 convolutions, each ended by a 2x2 max pooling; `width` may be a fraction."""

    def __init__(
        self,
        depth: int = 11,
        width: float = 1,
        batch_norm: bool = False,
        classes: int = 10,
        in_channels: int = 3,
        mean: tuple[float, ...] = CIFAR10_MEAN,
        std: tuple[float, ...] = CIFAR10_STD,
    ) -> None:
        super().__init__()
        if depth not in STAGES:
            raise ValueError(f"there is no VGG of depth {depth} here: use {' or '.join(map(str, STAGES))}")
        self.mean, self.std = mean, std
        layers: list[nn.Module] = []
        for stage in STAGES[depth]:
            for base in stage:
                channels = round(base * width)
                layers.append(nn.Conv2d(in_channels, channels, 3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(channels))
                layers.append(nn.ReLU())
                in_channels = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(in_channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))
