"""Variants: several different images of one unit, so that what they share stands out from the chance of one start.

    maximize  unit(x_i) * (1 - diversity * mean over j != i of cos(gram_i, gram_j))   (for unit(x_i) > 0)

over the images x_1 ... x_k of one unit, with the Gram matrices of a layer (Olah et al. 2017, "Feature Visualization",
diversity). All subjects start from the same k starts. How each network scores the others' images is given with its spread
over the variants: a difference between networks that is no larger than that between variants of one network means nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from PIL import Image
from torch import Tensor

from featviz.config import RenderConfig
from featviz.errors import RenderError
from featviz.evidence.pictures.picture_comparison import PictureComparison
from featviz.gallery.bands import drawable
from featviz.gallery.grid import Cell, Row, grid
from featviz.gallery.picture import finite
from featviz.isolation import ordinary_modes
from featviz.rendering.objectives import Activations, Objective, diversity
from featviz.rendering.optimize.loop import Renderings, score_images
from featviz.rendering.render import resolve_device
from featviz.rendering.together import (
    Scored,
    checked_subjects,
    render_together,
    share_of_progress,
    unit_extractors,
    units_by_subject,
)
from featviz.subjects import Subjects
from featviz.units import unit_numbers


class Diverse(Objective):
    """The score of `unit`, lowered by the likeness of an image to the others of the batch; see the module's docstring."""

    coupled = True

    def __init__(self, unit: Objective, layer: str, strength: float) -> None:
        self.unit, self.layer, self.strength = unit, layer, strength
        self.layers, self.images, self.image_units = (layer,), unit.images, unit.image_units
        self._diversity = diversity(layer)

    def score(self, T: Activations) -> Tensor:
        score = self.unit.score(T)
        return score + self.strength * score.detach().abs() * self._diversity.score(T)

    def select(self, index: Sequence[int]) -> "Diverse":
        return Diverse(self.unit.select(index), self.layer, self.strength)


@dataclass(frozen=True, eq=False)
class Variants(PictureComparison):
    """Several images of each unit in several subjects.

    Attributes:
        units: by subject, one per row.
        images: by subject (row, variant, c, h, w) in [0, 1].
        cross: (row, variant, image of, seen by): activation of the unit of `seen by`, without transforms, for the variant
            made for `image of`; the diagonal holds the activations for the own images.
    """

    layer: str
    units: Mapping[str, tuple[int, ...]]
    images: Mapping[str, Tensor]
    cross: Tensor
    diversity: float
    config: RenderConfig

    @property
    def title(self) -> str:
        """The layer."""
        return f"{self.layer}, variants"

    @property
    def transfer(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over the variants, (row, image of, seen by), of the activation in `seen by` over the
        mean activation that its own variants reach. The diagonal's mean is 1, and its deviation what chance makes of it.
        """
        own = self.cross.mean(1).diagonal(dim1=1, dim2=2)
        share = self.cross / own[:, None, None]
        return share.mean(1), share.std(1)

    def grid(self, *, bands: Sequence[int] | None = None) -> Image.Image:
        """For every unit a row per subject, with a column per variant."""
        variants = next(iter(self.images.values())).shape[1]
        footer = (
            f"Variants of one unit differ by their starts (seed {self.config.seed}, the same in every row of a unit) and by "
            f"diversity {self.diversity:g}; {self.config.steps_in_words}. In brackets: what each network makes of the image, "
            "over the mean that its own variants reach."
        )
        rows = []
        for row in range(len(self.cross)):
            own = self.cross[row].mean(0).diagonal()
            for of, name in enumerate(self.subjects):
                cells = []
                for variant in range(variants):
                    seen = ", ".join(
                        f"{other} {self.cross[row, variant, of, by] / own[by]:.0%}"
                        for by, other in enumerate(self.subjects)
                    )
                    caption = [f"{self.cross[row, variant, of, of]:.3g} ({seen})"]
                    cells.append(Cell(drawable(self.images[name][row, variant].numpy(), bands), caption))
                rows.append(Row(f"unit {self.units[name][row]}, {name}", cells))
        return grid([f"{number + 1}" for number in range(variants)], rows, self.title, footer)

    def record(self) -> dict[str, object]:
        """Ready for JSON."""
        mean, deviation = self.transfer
        return {
            "layer": self.layer,
            "subjects": list(self.subjects),
            "diversity": self.diversity,
            "cross_axes": ["variant", "image of", "seen by"],
            "config": asdict(self.config),
            "rows": [
                {
                    "units": {name: own[row] for name, own in self.units.items()},
                    "cross": [[[finite(v) for v in line] for line in table] for table in self.cross[row].tolist()],
                    "transfer": [[finite(v) for v in line] for line in mean[row].tolist()],
                    "transfer_deviation": [[finite(v) for v in line] for line in deviation[row].tolist()],
                }
                for row in range(len(self.cross))
            ],
        }


@ordinary_modes
def render_variants(
    subjects: Subjects,
    layer: str,
    units: int | Sequence[int],
    *,
    variants: int = 4,
    diversity: float = 0.3,
    own_units: Mapping[str, Sequence[int]] | None = None,
    axis: int | None = None,
    config: RenderConfig = RenderConfig(),  # noqa: B008 (frozen)
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Variants:
    """Several different images of each unit of a layer, in any number of networks.

    >>> found = render_variants({"A": a, "merged": merged}, "layer3.1.bn1", [17, 40], variants=4)  # doctest: +SKIP
    >>> found.save("out/variants.png")  # doctest: +SKIP

    Args:
        subjects: networks or `Subject`s by name, or `Subject`s with names; left as they were.
        layer: a module name.
        units: of the layer; each gives a row per subject.
        variants: images of each unit, 2 or more.
        diversity: weight of their difference; 0: they differ by their starts alone, from 1 on some no longer excite the unit.
        own_units: for subjects that show other units than `units`: as many, in the order of the rows.
        axis: of the units in the layer's output; None: 1, and the last one of tokens and of a linear layer or LayerNorm.
        config: size, steps, seed and the rest.
        device: None: where the first network is.
        progress: called with (steps done, steps to do) over all units and subjects.

    Raises:
        RenderError: fewer than two variants, a negative diversity, or other numbers of own units than units. UnitError: a
            layer or unit that a network does not have. ModelError: NaN in a network.
    """
    if variants < 2 or not diversity >= 0:
        raise RenderError(
            f"{variants} variants with diversity {diversity!r}: give two or more variants, and a diversity of 0 or more."
        )
    named, _ = checked_subjects(subjects, config)
    rows = unit_numbers(units)
    own = units_by_subject(named, rows, own_units)
    place = resolve_device(device, next(iter(named.values())).model)
    images: dict[str, list[Tensor]] = {name: [] for name in named}
    cross = []
    for number, unit in enumerate(rows):
        plain = unit_extractors(
            named, layer, {name: [mine[number]] * variants for name, mine in own.items()}, config, place, axis
        )
        diverse: dict[str, Scored] = {
            name: (extractor, Diverse(objective, layer, diversity)) for name, (extractor, objective) in plain.items()
        }
        keys = [(layer, unit), *((layer, unit, variant) for variant in range(1, variants))]
        made = render_together(diverse, keys, progress=share_of_progress(progress, number, len(rows)))
        for name, part in made.items():
            images[name].append(part.images)
        cross.append(_cross(plain, made))
    return Variants(
        layer, own, {name: torch.stack(parts) for name, parts in images.items()}, torch.stack(cross), diversity, config
    )


def _cross(networks: Mapping[str, Scored], made: Mapping[str, Renderings]) -> Tensor:
    """(variant, image of, seen by), without the share of the diversity."""
    seen = [
        torch.stack([score_images(extractor, objective, part.images) for extractor, objective in networks.values()], 1)
        for part in made.values()
    ]
    return torch.stack(seen, 1)
