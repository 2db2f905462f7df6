"""A small atlas of two networks, for tests."""

from pathlib import Path

import torch
from networks import TinyResNet, seeded

import featviz

CONFIG = featviz.RenderConfig(size=12, steps=4, precision="float32", backend="eager")
LAYERS = ["bn2", "conv3:0-5"]


def pair():
    """A and B."""
    return seeded(TinyResNet, 1), seeded(TinyResNet, 2)


def make(folder: Path, networks=None, **settings) -> featviz.AtlasStore:
    """14 units in five items."""
    a, b = networks or pair()
    return featviz.atlas(a, b, folder, **{"layers": LAYERS, "config": CONFIG, "units_per_item": 3} | settings)


def files(folder: Path) -> dict[str, bytes]:
    """Every item by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("items/*/*.safetensors")}


def images() -> list[torch.Tensor]:
    """60 of noise, in batches."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(20, 3, 12, 12, generator=generator) for _ in range(3)]
