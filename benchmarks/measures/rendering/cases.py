"""The networks and layers that the rendering benchmarks use, and the activation that an image reaches in one."""

import torch
import torchvision
from torch import Tensor, nn

import featviz
from featviz.config import RenderConfig
from featviz.rendering.network.feature_extractor import FeatureExtractor
from featviz.rendering.objectives import channel
from featviz.rendering.optimize.loop import score_images

CASES = {  # (network, layer) -> side of the image, side of what the network is fed; pixels
    ("resnet18", "layer2"): (128, 224),
    ("resnet18", "layer4"): (128, 224),
    ("resnet50", "layer3"): (128, 224),
    ("bundled", "layer3.1.bn2"): (64, 64),
}
LAYERS = ("layer2.1.bn1", "layer3.1.bn1")  # of the bundled pair
SIZE = 64  # pixels, of images of the bundled pair
GRAY = 0.02  # an image whose pixels have a smaller standard deviation counts as gray


def network(name: str, device: str = "cpu") -> nn.Module:
    """Network A of the bundled pair, or one of torchvision with random weights (which change no operator)."""
    torch.manual_seed(0)
    if name == "bundled":
        return featviz.bundled_pair().a.to(device)
    return torchvision.models.get_model(name, weights=None).eval().to(device)


def bundled_subjects() -> dict[str, nn.Module]:
    """A, B' and the repaired merge of the bundled pair."""
    pair = featviz.bundled_pair()
    alignment = featviz.load_alignment(pair.alignment_path)
    merged = featviz.merge(pair.a, pair.b, alignment, repair="none")
    merged.load_state_dict(pair.merged_statistics, strict=False)
    return {"A": pair.a, "B'": alignment.permute(pair.b), "merged": merged}


def activation(
    model: nn.Module | featviz.Subject, layer: str, units: list[int], images: Tensor, fed: int | None = None
) -> Tensor:
    """(unit,): mean over the map of unit `units[i]` for image i, without transforms, in float32.

    Args:
        images: (unit, 3, h, w) in [0, 1].
        fed: side in pixels of what the network is fed; None: the images as they are.
    """
    config = RenderConfig(size=images.shape[-1], input_size=fed, precision="float32")
    extractor = FeatureExtractor(model, (layer,), config)
    return score_images(extractor, channel(layer, units), images)


def gray(images: Tensor) -> int:
    """How many images have next to no contrast."""
    return int((images.flatten(1).std(1) < GRAY).sum())
