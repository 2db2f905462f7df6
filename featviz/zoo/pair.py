"""The bundled pair: two ResNet-20 trained on CIFAR-10 from different seeds, what aligns them, and their card.

pair = bundled_pair()
alignment = featviz.load_alignment(pair.alignment_path)
merged = featviz.merge(pair.a, pair.b, alignment, repair="none")
merged.load_state_dict(pair.merged_statistics, strict=False)      # a repaired merge without any data
"""

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from featviz.checkpoints import load_into, load_weights
from featviz.errors import CheckpointError
from featviz.zoo.named import zoo_network

PARTS = ("a.safetensors", "b.safetensors", "alignment.safetensors", "merged-statistics.safetensors", "card.json")


@dataclass(frozen=True)
class BundledPair:
    """Networks in eval mode; `card` tells the recipe, the accuracies (percent) and the `architecture`."""

    a: nn.Module
    b: nn.Module
    alignment_path: Path
    merged_statistics: dict[str, Tensor]  # BatchNorm running_mean and running_var of the repaired merge
    card: dict[str, Any]


def bundled_pair() -> BundledPair:
    """Read the pair from the package's data.

    Raises:
        CheckpointError: this installation lacks a part of it.
    """
    return read_pair(Path(str(files("featviz.zoo"))) / "weights")


def read_pair(folder: Path) -> BundledPair:
    """Read a pair from the files `PARTS` of a folder."""
    for part in PARTS:
        if not (folder / part).is_file():
            raise CheckpointError(f"the bundled pair lacks {folder / part}: install featviz again.")
    card = json.loads((folder / "card.json").read_text())
    a, b = (zoo_network(card["architecture"]) for _ in "ab")
    load_into(a, folder / "a.safetensors")
    load_into(b, folder / "b.safetensors")
    statistics = load_weights(folder / "merged-statistics.safetensors")
    return BundledPair(
        a=a.eval(),
        b=b.eval(),
        alignment_path=folder / "alignment.safetensors",
        merged_statistics={key: value.float() for key, value in statistics.items()},
        card=card,
    )
