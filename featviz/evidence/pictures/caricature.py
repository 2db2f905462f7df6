"""Caricature: what a layer sees in a photograph (Olah, lucid's notebook "Feature Inversion + Caricatures", 2018).

From noise, an image is made whose activations point where those of the photograph point, and are as large as can be:

    maximize  (a . p) / |p| * max(0.1, cos(a, p))**power,   a, p: the layer's activations for the image and the photograph

What the layer tells apart is exaggerated, what it ignores is lost. The score does not depend on the order of the units or on
any other basis of the layer: networks are compared without an alignment.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from PIL import Image
from torch import Tensor

from featviz.config import RenderConfig
from featviz.errors import RenderError
from featviz.evidence.pictures.photographs import Photographs, as_photographs
from featviz.evidence.pictures.picture_comparison import PictureComparison
from featviz.gallery.bands import drawable
from featviz.gallery.grid import Cell, Row, grid
from featviz.gallery.picture import finite
from featviz.isolation import ordinary_modes
from featviz.rendering.image.parameterizations import parameterization
from featviz.rendering.image.seeding import seeded_starts
from featviz.rendering.network.feature_extractor import FeatureExtractor
from featviz.rendering.objectives import Activations
from featviz.rendering.optimize.reference import ReferenceObjective, ascend_beside
from featviz.rendering.render import resolve_device
from featviz.rendering.together import checked_subjects, share_of_progress
from featviz.subjects import Subjects


class Caricature(ReferenceObjective):
    """The score of the module's docstring, over all units and positions of a layer."""

    def __init__(self, layer: str, cosine_power: float) -> None:
        self.layer, self.layers, self.cosine_power = layer, (layer,), cosine_power

    def compare(self, T: Activations, R: Activations) -> Tensor:
        a, p = (acts(self.layer).float().flatten(1) for acts in (T, R))
        along = (a * p).sum(1) / p.norm(dim=1).clamp_min(1e-12)
        cosine = along / a.norm(dim=1).clamp_min(1e-12)
        return along * cosine.clamp_min(0.1) ** self.cosine_power

    def select(self, index: Sequence[int]) -> "Caricature":
        del index
        return self


@dataclass(frozen=True, eq=False)
class Caricatures(PictureComparison):
    """Caricatures of photographs by one or more layers of several subjects; a row is a photograph and a layer.

    Attributes:
        layers: the layer of each row.
        photographs: (row, c, h, w) in [0, 1].
        images: by subject (row, c, h, w) in [0, 1].
        likeness: (row, image of, seen by): how alike the caricature made for `image of` and the photograph are in the layer of
            `seen by`: cos(a - n, p - n), with the activations a for the caricature, p for the photograph and n for the noise
            that the caricatures start from. 1: the same direction; 0: no nearer than noise. The diagonal says how well a
            caricature succeeded.
    """

    layers: tuple[str, ...]
    photographs: Tensor
    images: Mapping[str, Tensor]
    likeness: Tensor
    cosine_power: float
    config: RenderConfig

    @property
    def title(self) -> str:
        """The layers."""
        return f"Caricatures by {', '.join(dict.fromkeys(self.layers))}"

    def grid(self, *, bands: Sequence[int] | None = None) -> Image.Image:
        """A row per photograph and layer: the photograph, and its caricature by every subject."""
        footer = (
            "What a layer sees in the photograph, exaggerated, whatever the order of its units; "
            f"{self.config.steps_in_words} from noise, seed {self.config.seed}. x sees: how alike this image and the "
            "photograph are in x's layer (cosine; 0 for noise)."
        )
        rows = []
        for row, layer in enumerate(self.layers):
            cells = [Cell(drawable(self.photographs[row].numpy(), bands))]
            for of, name in enumerate(self.subjects):
                lines = [f"{other} sees {self.likeness[row, of, by]:.2f}" for by, other in enumerate(self.subjects)]
                cells.append(Cell(drawable(self.images[name][row].numpy(), bands), lines))
            rows.append(Row(layer, cells))
        return grid(["photograph", *self.subjects], rows, self.title, footer)

    def record(self) -> dict[str, object]:
        """Ready for JSON."""
        return {
            "subjects": list(self.subjects),
            "likeness_axes": ["image of", "seen by"],
            "cosine_power": self.cosine_power,
            "config": asdict(self.config),
            "rows": [
                {
                    "layer": layer,
                    "likeness": [[finite(value) for value in line] for line in self.likeness[row].tolist()],
                }
                for row, layer in enumerate(self.layers)
            ],
        }


@ordinary_modes
def caricature(
    subjects: Subjects,
    images: Photographs,
    layers: str | Sequence[str],
    *,
    cosine_power: float = 1.0,
    config: RenderConfig = RenderConfig(),  # noqa: B008 (frozen)
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Caricatures:
    """Caricatures of photographs: what layers of any number of networks see in them.

    All networks start from the same noise, with the same warps. No alignment is needed: B may be the original B.

    >>> found = caricature({"A": a, "B": b, "merged": merged}, "dog.jpg", ["layer2", "layer3"])  # doctest: +SKIP
    >>> found.save("out/caricatures.png")  # doctest: +SKIP

    Args:
        subjects: networks or `Subject`s by name, or `Subject`s with names; left as they were.
        images: photographs: files, or a tensor (image, c, h, w) in [0, 1].
        layers: module names, which all subjects have. Rows are every photograph in every layer.
        cosine_power: 0 asks for large activations along those of the photograph, more for the same pattern.
        config: seed and the rest; steps and lr, 48 and 0.2 where it gives none, a linear schedule counting as constant; the
            size of files, where a tensor keeps its own.
        device: None: where the first network is.
        progress: called with (steps done, steps to do) over all subjects and layers.

    Raises:
        RenderError: no layer, or a negative power. UnitError: a layer that a network does not have. DataError: images that
            cannot be read. ModelError: NaN in a network.
    """
    named, channels = checked_subjects(subjects, config)
    wanted = (layers,) if isinstance(layers, str) else tuple(layers)
    if not wanted or not cosine_power >= 0:
        raise RenderError(
            f"{len(wanted)} layers with cosine_power {cosine_power!r}: give a layer, and a power of 0 or more."
        )
    photographs, config = as_photographs(images, channels, config)
    place = resolve_device(device, next(iter(named.values())).model)
    made: dict[str, list[Tensor]] = {name: [] for name in named}
    likeness = []
    for step, layer in enumerate(wanted):
        networks = {name: FeatureExtractor(subject, (layer,), config, place) for name, subject in named.items()}
        first = next(iter(networks.values()))
        keys = [("caricature", layer, number) for number in range(len(photographs))]
        starts = seeded_starts(config, keys, first.channels, dtype=first.dtype)
        for number, (name, extractor) in enumerate(networks.items()):
            report = share_of_progress(progress, step * len(named) + number, len(wanted) * len(named))
            objective = Caricature(layer, cosine_power)
            made[name].append(ascend_beside(extractor, objective, starts, photographs, report))
        with torch.no_grad():
            noise = parameterization(starts.values, config)().float()
        seen = [_likeness(networks, layer, own[-1], photographs, noise) for own in made.values()]
        likeness.append(torch.stack(seen, 1))
    return Caricatures(
        tuple(layer for layer in wanted for _ in photographs),
        photographs.repeat(len(wanted), 1, 1, 1),
        {name: torch.cat(own) for name, own in made.items()},
        torch.cat(likeness),
        cosine_power,
        config,
    )


def _likeness(
    networks: Mapping[str, FeatureExtractor], layer: str, images: Tensor, photographs: Tensor, noise: Tensor
) -> Tensor:
    """(image, network): cosine between the steps from noise to an image and from noise to its photograph, without warps."""
    columns = []
    with torch.no_grad():
        for extractor in networks.values():
            cosines = []
            for row in zip(images, photographs, noise, strict=True):
                a, p, n = (
                    extractor(x[None].to(extractor.device, extractor.dtype))[layer].float().flatten() for x in row
                )
                cosines.append(torch.nn.functional.cosine_similarity(a - n, p - n, dim=0).cpu())
            columns.append(torch.stack(cosines))
    return torch.stack(columns, 1)
