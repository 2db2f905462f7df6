"""Exemplars as a picture: for every unit and subject the parts of the images that excite it most, as one tile."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from featviz.data import Data
from featviz.evidence.exemplars.exemplars import Exemplars
from featviz.gallery.bands import bands_explained, drawable
from featviz.gallery.grid import Cell, Row, grid
from featviz.gallery.picture import Picture


@dataclass(frozen=True, eq=False)
class ExemplarPicture(Picture):
    """Exemplars of some units of a layer with the parts of their images; see `exemplar_picture`.

    crops: (subject, unit) -> (channels, h, w) for each exemplar.
    """

    layer: str
    units: tuple[int, ...]
    exemplars: Exemplars
    crops: Mapping[tuple[str, int], list[Tensor]]

    @property
    def subjects(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self.exemplars.layers[self.layer])

    @property
    def title(self) -> str:
        """What stands above the picture."""
        return f"{self.layer}: images that excite the units most"

    def grid(self, *, bands: Sequence[int] | None = None) -> Image.Image:
        """A row per unit, a column per subject; see `Picture.grid`."""
        rows = [Row(f"unit {unit}", self.cells(dict.fromkeys(self.subjects, unit), bands)) for unit in self.units]
        channels = self.exemplars.report.image_shape[0]
        footer = (
            f"The {self.exemplars.k} of {self.exemplars.images} images with the largest activation in the unit's map, cut to "
            f"what the unit sees there.{bands_explained(bands, channels)}"
        )
        return grid(list(self.subjects), rows, self.title, footer)

    def cells(self, units: Mapping[str, int | None], bands: Sequence[int] | None = None) -> list[Cell]:
        """One tile per subject, in the order of `units`: subject -> its unit. White where there is none."""
        cells = []
        for subject, unit in units.items():
            crops = [] if unit is None else self.crops.get((subject, unit), [])
            if not crops or unit is None:
                cells.append(Cell(np.ones((8, 8, 3)), []))
                continue
            found = self.exemplars.found(self.layer, unit, subject)
            best = f"best images, maximum: {found[0].activation:#.3g} to {found[-1].activation:#.3g}"
            cells.append(Cell(_tile([drawable(crop.numpy(), bands) for crop in crops]), [best]))
        return cells

    def record(self) -> dict[str, object]:
        """Activations, percentiles, positions and files of the exemplars, ready for JSON; no image."""
        found = self.exemplars.record(self.layer, self.units)
        return {"layer": self.layer, "images": self.exemplars.images, "k": self.exemplars.k, "exemplars": found}


def exemplar_picture(exemplars: Exemplars, data: Data, layer: str, units: Sequence[int]) -> ExemplarPicture:
    """The picture of some units' exemplars. Reads `data` once, up to the last image that is needed.

    Raises:
        UnitError: a layer or unit that was not measured. DataError: the images come in another order than when measured.
    """
    return ExemplarPicture(layer, tuple(units), exemplars, exemplars.crops(data, layer, units))


def _tile(images: Sequence[np.ndarray]) -> np.ndarray:
    """The images side by side in a square, white between them; each in the middle of its field."""
    images = [np.clip(image if image.ndim == 3 else image[..., None], 0, 1) for image in images]
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    columns = math.ceil(math.sqrt(len(images)))
    gap = max(1, max(height, width) // 16)
    rows = math.ceil(len(images) / columns)
    channels = max(image.shape[2] for image in images)
    tile = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, channels))
    for number, image in enumerate(images):
        top = number // columns * (height + gap) + (height - image.shape[0]) // 2
        left = number % columns * (width + gap) + (width - image.shape[1]) // 2
        tile[top : top + image.shape[0], left : left + image.shape[1]] = image
    return tile
