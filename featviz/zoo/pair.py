"""The bundled pair: two ResNet-20 trained on CIFAR-10 from different seeds, their alignment, and a description.

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

from featviz.errors import CheckpointError
from featviz.weights.checkpoints import load_into, load_weights
from featviz.zoo.named import zoo_network

PARTS = ("a.safetensors", "b.safetensors", "alignment.safetensors", "merged-statistics.safetensors", "card.json")


@dataclass(frozen=True)
class BundledPair:
    """Two networks and what belongs to them.

    Attributes:
        a, b: the networks, in evaluation mode.
        alignment_path: file of their alignment, for `load_alignment`.
        fates_path: file of what became of the units in the repaired merge, for `read_fates`; measured on test images.
        merged_statistics: running_mean and running_var of every BatchNorm layer of the repaired merge, by state dict key.
        card: the training recipe, the accuracies (percent) and the name of the `architecture`.
    """

    a: nn.Module
    b: nn.Module
    alignment_path: Path
    fates_path: Path
    merged_statistics: dict[str, Tensor]
    card: dict[str, Any]


def bundled_pair() -> BundledPair:
    """Read the pair from the files of the package.

    Raises:
        CheckpointError: a file is missing in this installation.
    """
    return read_pair(Path(str(files("featviz.zoo"))) / "weights")


def read_pair(folder: Path) -> BundledPair:
    """Read a pair from a folder that holds the files `PARTS`."""
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
        fates_path=folder / "fates.json",
        merged_statistics={key: value.float() for key, value in statistics.items()},
        card=card,
    )
