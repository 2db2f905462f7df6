"""The pairs of networks that are studied, with the images that they are matched, repaired and measured on.

    resnet20-x2         bundled with featviz
    resnet20-x1         half as wide, trained by `benchmarks/merging.py train`
    vgg11_bn-x0.5       another architecture, with norms
    vgg11-x0.5          the same without norms
    half-classes        resnet20-x1, and one that saw the classes 0 to 4 alone
    fine-tuned          resnet20-x1 twice fine-tuned from one base, in two orders of the images: nothing is permuted
    public-resnet20     two public ResNet-20s (--public)
    public-mobilenet    two public MobileNetV1s for ImageNet, norms folded in (--public)

Networks that are not in --runs are trained first, which takes from ten minutes to an hour for a pair on two cores.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from measures.cifar import load_cifar
from measures.merging.pairs import COMMAND, PAIRS, checkpoints, load_models
from measures.rendering.real_networks import definitions, mobilenet, photographs
from torch import Tensor, nn

import featviz
from featviz.errors import near_names

Batch = tuple[Tensor, Tensor]
CALIBRATION = 2000  # training images for matching and repair
MEASURED = 1000  # test images


@dataclass(frozen=True)
class Pair:
    """Two networks ready to be studied.

    calibration: training images, for matching and repair. measured: test images, on which units are measured. accuracy: test
    images with labels. All are batches (x, label) of images in [0, 1].
    size: side of the images in pixels. layers: what is measured (patterns; None: all norms).
    methods: of matching, the first is the main one.
    """

    name: str
    title: str
    a: featviz.Subject
    b: featviz.Subject
    calibration: Sequence[Batch]
    measured: Sequence[Batch]
    accuracy: Sequence[Batch]
    size: int
    layers: tuple[str, ...] | None = None
    methods: tuple[str, ...] = ("activations", "weights", "zipit", "cca")


TITLES = {
    "resnet20-x2": "ResNet-20 x2",
    "resnet20-x1": "ResNet-20 x1",
    "vgg11_bn-x0.5": "VGG-11 x0.5 with BatchNorm",
    "vgg11-x0.5": "VGG-11 x0.5 without norms",
    "half-classes": "ResNet-20 x1 and half of the classes",
    "fine-tuned": "ResNet-20 x1 fine-tuned twice",
    "public-resnet20": "public ResNet-20s",
    "public-mobilenet": "public MobileNetV1s (ImageNet)",
}
ABOUT = {
    "resnet20-x2": "twice the usual width, two seeds, 32 epochs of CIFAR-10; comes with featviz.",
    "resnet20-x1": "the usual width (16, 32, 64 channels), two seeds, 14 epochs of CIFAR-10.",
    "vgg11_bn-x0.5": "half the usual width, two seeds, 5 epochs of CIFAR-10.",
    "vgg11-x0.5": "half the usual width, without any norm, two seeds, 6 epochs of CIFAR-10.",
    "half-classes": "A as in ResNet-20 x1; B saw only the images of CIFAR-10's classes 0 to 4, 14 epochs.",
    "fine-tuned": "A of ResNet-20 x1, trained on for 3 epochs twice, with the images in two orders. Nothing is permuted.",
    "public-resnet20": "the usual width, 1x1 projections; published with Intel's distiller, B with a regularizer of channels.",
    "public-mobilenet": "MobileNetV1 0.25 for ImageNet, trained at 224 and at 128 px, norms folded into the weights; measured "
    "at 128 px. Its merge fails by every method: it shows what a failed merge looks like.",
}  # fmt: skip
WIDTH_1 = ("--arch", "resnet20", "--width", "1")
FINE_TUNING = (*WIDTH_1, "--epochs", "3", "--lr", "0.05", "--seeds", "0", "1")
HALF = (*WIDTH_1, "--epochs", "14", "--lr", "0.2", "--small-epochs", "6", "--classes", *"01234", "--seeds", "2")


def load_pair(name: str, data: Path, runs: Path, public: Path | None, images: int = MEASURED) -> Pair:
    """One of `TITLES`.

    Args:
        data: CIFAR-10. runs: where trained networks lie, or are written. public: the folder of public checkpoints.
        images: how many test images units are measured on; accuracy is measured on five times as many.

    Raises:
        SystemExit: no such pair, or a public one without `public`.
    """
    if name not in TITLES:
        raise SystemExit(f"there is no pair {name!r}: {near_names(name, TITLES)}")
    if name.startswith("public") and public is None:
        raise SystemExit(f"{name} needs the folder of public checkpoints: give --public FOLDER.")
    if name == "public-mobilenet":
        assert public is not None
        return _mobilenet(public, images)
    calibration, measured, accuracy = (
        cifar_images(data, train, count) for train, count in ((True, CALIBRATION), (False, images), (False, 5 * images))
    )
    a, b = _networks(name, data, runs, public)
    methods = ("identity",) if name == "fine-tuned" else Pair.methods
    return Pair(name, TITLES[name], a, b, calibration, measured, accuracy, 32, methods=methods)


def _networks(name: str, data: Path, runs: Path, public: Path | None) -> tuple[featviz.Subject, featviz.Subject]:
    if name == "public-resnet20":
        assert public is not None
        return tuple(_public_resnet(public, kind) for kind in ("dense", "channel-regularized"))  # pyright: ignore[reportReturnType]
    if name in ("half-classes", "fine-tuned"):
        architecture = "resnet20-x1"
        base = _trained(
            [runs / f"{architecture}-s0.safetensors"], data, runs, *PAIRS[architecture].recipe.split(), "--seeds", "0"
        )
        if name == "half-classes":
            files = [*base, *_trained([runs / f"{architecture}-classes0-1-2-3-4-s2.safetensors"], data, runs, *HALF)]
        else:
            files = [runs / f"{architecture}-from-{base[0].stem}-s{seed}.safetensors" for seed in (0, 1)]
            _trained(files, data, runs, *FINE_TUNING, "--start", str(base[0]))
    else:
        architecture, files = name, checkpoints(name, data, runs)
    a, b = load_models(architecture, files)
    return featviz.Subject(a, "A"), featviz.Subject(b, "B")


def _trained(files: list[Path], data: Path, runs: Path, *recipe: str) -> list[Path]:
    """The files, trained where they are missing."""
    if not all(file.exists() for file in files):
        command = [sys.executable, str(COMMAND), "train", "--data", str(data), "--out", str(runs)]
        subprocess.run([*command, *recipe], check=True)
    return files


def _public_resnet(folder: Path, kind: str) -> featviz.Subject:
    model: nn.Module = definitions(folder).ResNet20().eval()
    featviz.load_into(model, folder / f"resnet20-{kind}.pth.tar")
    return featviz.Subject(model, kind, mean=(0.5,) * 3, std=(0.5,) * 3)


def _mobilenet(folder: Path, images: int) -> Pair:
    """Every second photograph is for the calibration, the others are measured on: there are 1,000, one of each class."""
    a, b = (mobilenet(folder, side) for side in (224, 128))
    batches = list(
        zip(photographs(folder / "imagenet-160.tar", 128).split(1), torch.arange(1, 1001).split(1), strict=True)
    )
    calibration, measured = (
        [(torch.cat([x for x, _ in part]), torch.cat([y for _, y in part])) for part in _parts(batches[first::2], 50)]
        for first in (0, 1)
    )
    measured = measured[: max(1, images // 50)]
    name = "public-mobilenet"
    methods = ("activations", "weights", "zipit")  # CCA combines channels, which a depthwise kernel cannot
    return Pair(name, TITLES[name], a, b, calibration, measured, measured, 128, methods=methods)


def _parts(batches: Sequence[Batch], size: int) -> list[Sequence[Batch]]:
    return [batches[first : first + size] for first in range(0, len(batches), size)]


def cifar_images(data: Path, train: bool, count: int) -> list[Batch]:
    """Images in a fixed random order, in batches of 250."""
    images, labels = load_cifar(data, train)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count]
    return [(images[part] / 255, labels[part]) for part in order.split(250)]
