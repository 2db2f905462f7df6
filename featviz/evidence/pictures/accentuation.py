"""Accentuation: what a unit would change in a photograph to be excited more (Hamblin et al. 2024, "Feature Accentuation").

From noise, two networks with one feature draw two different pictures. Here all start from one photograph, and may change it
equally much, so that what they change can be compared place by place:

    maximize  unit(x)  with  |early(x) - early(photograph)| <= change * |early(photograph) - its mean|

early() is the output of an early layer; both sides are compared under the same random warps. The bound is held by a penalty
whose weight grows while the distance is above the bound and shrinks while it is below; what is still above it without warps
is mixed with the photograph.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from PIL import Image
from torch import Tensor, nn

from featviz.config import RenderConfig
from featviz.errors import RenderError
from featviz.evidence.pictures.photographs import Photographs, as_photographs
from featviz.evidence.pictures.picture_comparison import PictureComparison
from featviz.gallery.bands import drawable
from featviz.gallery.grid import Cell, Row, grid
from featviz.gallery.picture import finite
from featviz.isolation import ordinary_modes
from featviz.rendering.image.parameterizations import parameterization_class
from featviz.rendering.image.seeding import seeded_starts
from featviz.rendering.network.cut_network import resolve_layer
from featviz.rendering.network.feature_extractor import FeatureExtractor
from featviz.rendering.objectives import Activations, Objective
from featviz.rendering.optimize.loop import score_images
from featviz.rendering.optimize.reference import ReferenceObjective, ascend_beside
from featviz.rendering.render import resolve_device
from featviz.rendering.together import Scored, checked_subjects, share_of_progress, unit_extractors, units_by_subject
from featviz.subjects import Subjects
from featviz.units import unit_numbers

LEARNING_RATE = 0.25  # of config.lr: with more, steps from a photograph overshoot the bound and saturate the colors
PENALTY_RATE = 0.1  # power of distance / change by which the weight of the penalty is multiplied at every step
BISECTIONS = 8  # of the line from a photograph to its image, to meet the bound
BLUR = 1 / 48  # standard deviation of the blur of a map of changes, in sides of the image


class Accentuation(ReferenceObjective):
    """The score of `unit` for an image that stays near its reference in the layer `near`.

    The score is divided by the standard deviation of the unit's layer for the reference, so that units and networks of any
    scale begin with the same weight of the penalty.
    """

    def __init__(self, unit: Objective, layer: str, near: str, change: float) -> None:
        self.unit, self.layer, self.near, self.change = unit, layer, near, change
        self.layers, self.images, self.image_units = (near, layer), unit.images, unit.image_units
        self._penalty: Tensor | None = None

    def compare(self, T: Activations, R: Activations) -> Tensor:
        ratio = relative_distance(T(self.near), R(self.near)) / self.change
        with torch.no_grad():
            penalty = torch.ones_like(ratio) if self._penalty is None else self._penalty
            self._penalty = penalty * ratio.clamp(0.25, 4) ** PENALTY_RATE
        scale = R(self.layer).flatten(1).float().std(1).clamp_min(1e-12)
        return self.unit.score(T) / scale - self._penalty * ratio**2

    def select(self, index: Sequence[int]) -> "Accentuation":
        return Accentuation(self.unit.select(index), self.layer, self.near, self.change)


def relative_distance(x: Tensor, reference: Tensor) -> Tensor:
    """|x - reference| / |reference - its mean over space| per image, Euclidean over units and positions."""
    x, reference = x.float(), reference.float()
    space = tuple(range(2, x.ndim))
    contrast = reference - reference.mean(space, keepdim=True) if space else reference
    return (x - reference).flatten(1).norm(dim=1) / contrast.flatten(1).norm(dim=1).clamp_min(1e-12)


@dataclass(frozen=True, eq=False)
class Accentuations(PictureComparison):
    """Photographs, accentuated for the same units in several subjects.

    Attributes:
        layer: of the units. near: the early layer in which images stay near their photograph, by subject.
        units: by subject, one per row.
        photographs: (row, c, h, w) in [0, 1].
        images: by subject (row, c, h, w) in [0, 1].
        before: (row, subject), the unit's activation for the photograph, mean over space.
        cross: (row, image of, seen by), the activation of the unit of `seen by` for the image made for `image of`; the
            diagonal holds the activations for the own images.
        distance: (row, subject), relative distance to the photograph in the layer `near`.
        change: the bound of the distances.
    """

    layer: str
    near: Mapping[str, str]
    units: Mapping[str, tuple[int, ...]]
    photographs: Tensor
    images: Mapping[str, Tensor]
    before: Tensor
    cross: Tensor
    distance: Tensor
    change: float
    config: RenderConfig

    @property
    def title(self) -> str:
        """The layer."""
        return f"{self.layer}, accentuated"

    @property
    def transfer(self) -> Tensor:
        """(row, image of, seen by): the rise of activation in `seen by`, as a share of the rise by its own image.

        1 on the diagonal; near 0 where the other network's change of the photograph says nothing to this unit.
        """
        rise = self.cross - self.before[:, None]
        return rise / rise.diagonal(dim1=1, dim2=2)[:, None]

    def changes(self, subject: str) -> Tensor:
        """(row, h, w): how much the subject changed the photograph, root mean square over channels, blurred."""
        difference = (self.images[subject] - self.photographs).square().mean(1).sqrt()
        return _blurred(difference, BLUR * max(difference.shape[1:]))

    def grid(self, *, bands: Sequence[int] | None = None) -> Image.Image:
        """A row per unit: the photograph, and for every subject its image and a map of what changed (dark: more)."""
        near = ", ".join(dict.fromkeys(self.near.values()))
        footer = (
            f"Every image starts from the photograph and stays within {self.change:.0%} of it in {near}; "
            f"{self.config.steps_in_words}, seed {self.config.seed}. Activation: mean over the map, photograph -> image. "
            "Change: size of the change, one scale per row. x reaches: rise of x's activation by this image, over the rise by "
            "its own."
        )
        columns = ["photograph", *(head for name in self.subjects for head in (name, "change"))]
        return grid(columns, [self._row(row, bands) for row in range(len(self.photographs))], self.title, footer)

    def _row(self, row: int, bands: Sequence[int] | None) -> Row:
        maps = {name: self.changes(name)[row] for name in self.subjects}
        most = max(float(values.max()) for values in maps.values()) or 1.0
        cells = [Cell(drawable(self.photographs[row].numpy(), bands))]
        for of, name in enumerate(self.subjects):
            before, after = float(self.before[row, of]), float(self.cross[row, of, of])
            cells.append(Cell(drawable(self.images[name][row].numpy(), bands), [f"{before:.3g} -> {after:.3g}"]))
            others = [(by, other) for by, other in enumerate(self.subjects) if by != of]
            reached = [f"{other} reaches {self.transfer[row, of, by]:.0%}" for by, other in others]
            cells.append(Cell(1 - maps[name].numpy() / most, reached))
        return Row(f"unit {next(iter(self.units.values()))[row]}", cells)

    def record(self) -> dict[str, object]:
        """Ready for JSON."""
        rows = range(len(self.photographs))
        return {
            "layer": self.layer,
            "subjects": list(self.subjects),
            "near": dict(self.near),
            "change": self.change,
            "cross_axes": ["image of", "seen by"],
            "config": asdict(self.config),
            "rows": [
                {
                    "units": {name: own[row] for name, own in self.units.items()},
                    "before": [finite(value) for value in self.before[row].tolist()],
                    "cross": [[finite(value) for value in line] for line in self.cross[row].tolist()],
                    "transfer": [[finite(value) for value in line] for line in self.transfer[row].tolist()],
                    "distance": [finite(value) for value in self.distance[row].tolist()],
                }
                for row in rows
            ],
        }


@ordinary_modes
def accentuate(
    subjects: Subjects,
    images: Photographs,
    layer: str,
    units: int | Sequence[int],
    *,
    change: float = 0.5,
    near: str | None = None,
    own_units: Mapping[str, Sequence[int]] | None = None,
    axis: int | None = None,
    config: RenderConfig = RenderConfig(),  # noqa: B008 (frozen)
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Accentuations:
    """Accentuate units of a layer in photographs, the same photographs in any number of networks.

    >>> found = accentuate({"A": a, "B'": b1, "merged": merged}, "dog.jpg", "layer3.1.bn1", [17, 40])  # doctest: +SKIP
    >>> found.save("out/accentuated.png")  # doctest: +SKIP

    Args:
        subjects: networks or `Subject`s by name, or `Subject`s with names; left as they were.
        images: one photograph for all units, or one per unit: files, or a tensor (image, c, h, w) in [0, 1].
        layer: a module name.
        units: of the layer, one per row.
        change: how far an image may be from its photograph: the distance in the layer `near`, over the contrast of the
            photograph there. 0.25 is hardly visible, 1 leaves little of the photograph.
        near: the early layer; None: the module with weights that is a quarter of the way to `layer`.
        own_units: for subjects that show other units than `units`: as many, in the order of the rows.
        axis: of the units in the layer's output; None: 1, and the last one of tokens and of a linear layer or LayerNorm.
        config: seed and the rest; steps and lr, 48 and 0.2 where it gives none, a linear schedule counting as constant; the
            size of files, where a tensor keeps its own. The parameterization is one that can start from an image ("fourier",
            "pixel").
        device: None: where the first network is.
        progress: called with (steps done, steps to do) over all subjects.

    Raises:
        RenderError: a change that is not positive, numbers of images and units that do not fit, or a parameterization that
            cannot start from an image. UnitError: a layer or unit that a network does not have. DataError: images that
            cannot be read. ModelError: NaN in a network.
    """
    if not change > 0:
        raise RenderError(f"change is {change!r}: give a number above 0, for example 0.5.")
    named, channels = checked_subjects(subjects, config)
    photographs, config = as_photographs(images, channels, config)
    rows = unit_numbers(units)
    own = units_by_subject(named, rows, own_units)
    if len(photographs) not in (1, len(rows)):
        raise RenderError(f"{len(photographs)} images for {len(rows)} units: give one for all, or one for each.")
    photographs = photographs.expand(len(rows), -1, -1, -1).contiguous()
    place = resolve_device(device, next(iter(named.values())).model)
    nears = {name: near or _early_layer(subject.model, layer) for name, subject in named.items()}
    lower = replace(config, lr=config.step_size * LEARNING_RATE)
    extractors: dict[str, Scored] = {}
    for name, subject in named.items():
        extractors |= unit_extractors({name: subject}, layer, own, lower, place, axis, [nears[name]])
    made = {}
    for number, (name, network) in enumerate(extractors.items()):
        report = share_of_progress(progress, number, len(extractors))
        keys = [(layer, unit) for unit in rows]
        made[name] = _accentuated(network, layer, nears[name], keys, photographs, change, config, report)
    before, *after = (
        torch.stack([score_images(extractor, unit, shown) for extractor, unit in extractors.values()], 1)
        for shown in (photographs, *made.values())
    )
    distance = torch.stack([_distances(extractors[name][0], nears[name], made[name], photographs) for name in made], 1)
    return Accentuations(layer, nears, own, photographs, made, before, torch.stack(after, 1), distance, change, config)


def _accentuated(
    network: Scored,
    layer: str,
    near: str,
    keys: Sequence[Hashable],
    photographs: Tensor,
    change: float,
    config: RenderConfig,
    progress: Callable[[int, int], None] | None,
) -> Tensor:
    """The photographs, accentuated for the units of one network: (row, c, h, w)."""
    extractor, unit = network
    starts = seeded_starts(config, keys, extractor.channels, dtype=extractor.dtype)
    values = parameterization_class(config).start_from(photographs.to(extractor.dtype), config)
    objective = Accentuation(unit, layer, near, change)
    images = ascend_beside(extractor, objective, replace(starts, values=values), photographs, progress)
    return _within(extractor, near, images, photographs, change)


def _early_layer(model: nn.Module, layer: str) -> str:
    """The module with weights that is a quarter of the way to the layer, in the order of the network's modules."""
    target = resolve_layer(model, layer)
    before = []
    for name, module in model.named_modules():
        if name and name == target:
            break
        if not list(module.children()) and next(module.parameters(), None) is not None:
            before.append(name)
    return before[len(before) // 4] if before else "input"


def _within(extractor: FeatureExtractor, near: str, images: Tensor, photographs: Tensor, change: float) -> Tensor:
    """The images, drawn back towards their photographs where they are farther than `change` without warps."""
    share = torch.ones(len(images))
    low, high = torch.zeros(len(images)), torch.ones(len(images))
    for _ in range(BISECTIONS):
        mixed = torch.lerp(photographs, images, share.view(-1, 1, 1, 1).to(images))
        inside = _distances(extractor, near, mixed, photographs) <= change
        low, high = torch.where(inside, share, low), torch.where(inside, high, share)
        share = torch.where(low == 1, 1.0, (low + high) / 2)
    return torch.lerp(photographs, images, low.view(-1, 1, 1, 1).to(images))


def _distances(extractor: FeatureExtractor, near: str, images: Tensor, photographs: Tensor) -> Tensor:
    """(row,) relative distances without warps, row by row."""
    found = []
    with torch.no_grad():
        for pair in zip(images, photographs, strict=True):
            x, reference = (extractor(image[None].to(extractor.device, extractor.dtype))[near] for image in pair)
            found.append(relative_distance(x, reference).cpu())
    return torch.cat(found)


def _blurred(maps: Tensor, sd: float) -> Tensor:
    """Maps (row, h, w) convolved with a Gaussian of this standard deviation in pixels, reflected at the edges."""
    reach = min(max(1, round(3 * sd)), maps.shape[1] - 1, maps.shape[2] - 1)
    if reach < 1:
        return maps
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / max(sd, 1e-6)) ** 2)
    kernel = (kernel / kernel.sum()).to(maps)
    x = torch.nn.functional.pad(maps[:, None], [reach] * 4, mode="reflect")
    x = torch.nn.functional.conv2d(x, kernel.view(1, 1, -1, 1))
    return torch.nn.functional.conv2d(x, kernel.view(1, 1, 1, -1))[:, 0]
