"""Mean activations of layers' units on a few images: what a `channel` objective scores, for every unit at once."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from featviz.evidence.layer_pass import LayerChunk, layer_pass
from featviz.subjects import Subject


def layer_means(
    subjects: Mapping[str, Subject], layers: Mapping[str, int | None], images: Tensor | Sequence[Tensor]
) -> dict[tuple[str, str], Tensor]:
    """(subject, layer) -> (image, unit) the mean of each unit's map, float64 on the CPU.

    Args:
        layers: name -> axis of the units, as for `layer_pass`.
        images: (image, channels, h, w) in [0, 1], or several of such.
    """
    found: dict[tuple[str, str], list[Tensor]] = {}

    def take(chunk: LayerChunk) -> None:
        for name in subjects:
            means = chunk.means(name, torch.float64).cpu()
            found.setdefault((name, chunk.layer), []).append(means)

    layer_pass(subjects, layers, [images] if isinstance(images, Tensor) else list(images), take)
    return {key: torch.cat(parts) for key, parts in found.items()}
