"""The trained pairs that the merging benchmarks measure, each with the recipe that trains it where it is missing."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from torch import nn

import featviz
from featviz.networks.architectures import build
from featviz.weights.checkpoints import load_into

COMMAND = Path(__file__).parents[2] / "merging.py"
BUNDLED = "resnet20-x2"


@dataclass(frozen=True)
class Pair:
    """A pair of networks trained on CIFAR-10 from two seeds.

    label: its name in tables. recipe: arguments of `merging.py train`. images: training images for matching and repair.
    published: accuracies in percent of REPAIR's authors (Jordan et al. 2022): mean of the parents, permuted and averaged,
        repaired; width: of the network that was published, where it is another.
    """

    label: str
    recipe: str
    images: int
    published: tuple[float, float, float]
    width: str = ""


PAIRS = {
    "resnet20-x2": Pair(
        "ResNet-20 x2 (bundled)",
        "--arch resnet20 --width 2 --epochs 22 --lr 0.2 --small-epochs 9 --polish 6:0.07 4:0.05", 5000,
        (95.22, 16.14, 85.45),
    ),
    "resnet20-x1": Pair(
        "ResNet-20 x1, 14 epochs", "--arch resnet20 --width 1 --epochs 14 --lr 0.2 --small-epochs 6", 2000,
        (93.58, 12.65, 67.63),
    ),
    "vgg11_bn-x2": Pair(
        "VGG-11 x2, BatchNorm, 3 epochs", "--arch vgg11_bn --width 2 --epochs 3 --lr 0.2", 2000, (91.95, 58.38, 90.74)
    ),
    "vgg11_bn-x0.5": Pair(
        "VGG-11 x0.5, BatchNorm, 5 epochs", "--arch vgg11_bn --width 0.5 --epochs 5 --lr 0.2", 2000,
        (91.95, 58.38, 90.74), " (x2)",
    ),
    "vgg11-x1": Pair(
        "VGG-11 x1, no norm, 6 epochs", "--arch vgg11 --width 1 --epochs 6 --lr 0.05", 2000, (89.6, 67.3, 84.9)
    ),
    "vgg11-x0.5": Pair(
        "VGG-11 x0.5, no norm, 6 epochs", "--arch vgg11 --width 0.5 --epochs 6 --lr 0.05", 2000, (89.6, 67.3, 84.9),
        " (x1)",
    ),
}  # fmt: skip


def bundled_files() -> list[Path]:
    """The checkpoints of the bundled pair."""
    weights = Path(featviz.__file__).parent / "zoo" / "weights"
    return [weights / "a.safetensors", weights / "b.safetensors"]


def checkpoints(network: str, data: Path, runs: Path) -> list[Path]:
    """The pair's files in `runs`, trained first where they are missing; the bundled pair's where `runs` has no other."""
    files = [runs / f"{network}-s{seed}.safetensors" for seed in (0, 1)]
    if network == BUNDLED and not files[0].exists():
        return bundled_files()
    if not all(file.exists() for file in files):
        command = [sys.executable, str(COMMAND), "train", "--data", str(data), "--out", str(runs), "--seeds", "0", "1"]
        subprocess.run([*command, *PAIRS[network].recipe.split()], check=True)
    return files


def load_models(architecture: str, files: list[Path]) -> list[nn.Module]:
    """Networks of the zoo with the weights of the files, in evaluation mode."""
    models = [build(architecture).eval() for _ in files]
    for model, file in zip(models, files, strict=True):
        load_into(model, file)
    return models
