"""What the tests of the command line share: a tiny architecture, arguments, and the files of a folder."""

from pathlib import Path

NET = """
from torch import nn

def make(width=6, channels=3, classes=2):
    return nn.Sequential(
        nn.Conv2d(channels, width, 3), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes),
    )

def answer():
    return 42
"""
ARCH = ["--arch", "tinynet:make"]
SIZE = ["--size", "12"]
PAIR = ["a.safetensors", "b.safetensors", *ARCH]
FAST = ["--size", "16", "--steps", "2", "--restarts", "0", "--precision", "float32"]


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
