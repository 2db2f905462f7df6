"""An item of an atlas: units of one layer in all subjects -> a `Chunk`; and what an item's chunk shows.

Arrays of a rendered item, where n units are shown in s subjects:

    images         (s, n, h, w, channels) uint8; or, lossy, "images.webp" (bytes of all files) and "images.ends" (s * n)
    trace          (s, n, step) float32, the activation at every step, NaN after a unit's last step
    steps          (s, n) int32

of its evidence: "exemplars" (subject, n, k, h, w, channels) uint8, white around smaller parts of images. The records are those
of `Panel.unit_record` with the match, and rows of `Fates`.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from featviz.atlases.chunk import Chunk
from featviz.atlases.plan import Item
from featviz.config import RenderConfig
from featviz.errors import AtlasError, summary
from featviz.matching.indexer import LinearUnitIndexer, UnitIndexer
from featviz.panel import Panel
from featviz.panel_rendering import render_panel
from featviz.subjects import Subject

QUALITY = 90  # of WebP
EXEMPLAR_SIDE = 96  # pixels at most, of a part of an image that is kept


@dataclass(frozen=True, eq=False)
class ItemRenderer:
    """Renders the items of one atlas; can be sent to another process.

    subjects: networks in A's basis, or A, B and the merged one where units are combined. indexer: which unit of B is which.
    device: where to render; None: where the networks are.
    """

    subjects: Mapping[str, Subject]
    indexer: UnitIndexer
    config: RenderConfig
    images: str
    device: str | None

    def __call__(self, item: Item) -> Chunk:
        """Render an item's units.

        Raises:
            UnitError, RenderError, ModelError, DeviceError: as `render_panel`.
        """
        linear = isinstance(self.indexer, LinearUnitIndexer)
        find = self.indexer.mix if linear else self.indexer.match
        matches = [find(item.layer, unit) for unit in item.units]
        strongest = {"A": [match.a for match in matches], "B": [match.b for match in matches]} if linear else None
        panel = render_panel(
            self.subjects, item.layer, list(item.units), own_units=strongest,
            axis=self.indexer.units(item.layer).axis, config=self.config, device=self.device,
        )  # fmt: skip
        records = [match.record() | panel.unit_record(row) for row, match in enumerate(matches)]
        return Chunk(records, panel_arrays(panel, self.images))


def panel_arrays(panel: Panel, images: str = "raw") -> dict[str, np.ndarray]:
    """Of a panel; see the module's docstring."""
    parts = list(panel.renderings.values())
    longest = max(part.trace.shape[0] for part in parts)
    trace = np.full((len(parts), len(panel), longest), np.nan, np.float32)
    for row, part in enumerate(parts):
        trace[row, :, : part.trace.shape[0]] = part.trace.float().numpy().T
    steps = np.stack([part.steps.numpy() for part in parts]).astype(np.int32)
    pictures = np.stack([_bytes_of(part.images) for part in parts])
    return {"trace": trace, "steps": steps, **(webp_arrays(pictures) if images == "webp" else {"images": pictures})}


def pictures_of(chunk: Chunk) -> np.ndarray:
    """(subject, unit, h, w, channels) uint8 of an item's chunk.

    Raises:
        AtlasError: its arrays are not those of an item.
    """
    arrays = chunk.arrays
    if "images" in arrays:
        found = arrays["images"]
        if found.ndim != 5 or found.dtype != np.uint8 or found.shape[1] != len(chunk.records):
            raise AtlasError(f"an item's images have shape {found.shape}: its file is damaged.")
        return found
    try:
        files, ends = arrays["images.webp"].tobytes(), arrays["images.ends"].tolist()
        units = len(chunk.records)
        pictures = [
            np.asarray(Image.open(io.BytesIO(files[start:end])).convert("RGB"))
            for start, end in zip([0, *ends[:-1]], ends, strict=True)
        ]
        return np.stack(pictures).reshape(len(pictures) // units, units, *pictures[0].shape)
    except (KeyError, ValueError, OSError, IndexError, ZeroDivisionError) as error:
        raise AtlasError(f"an item's images cannot be read ({summary(error, 80)}): its file is damaged.") from error


def exemplar_arrays(
    crops: Mapping[tuple[str, int], Sequence[Tensor]], subjects: Sequence[str], units: Sequence[int], k: int
):
    """(subject, unit, k, h, w, channels) uint8 of parts of images (channels, h, w) in [0, 1], each in the middle of white."""
    shown = {key: [_smaller(part) for part in parts] for key, parts in crops.items()}
    every = [part for parts in shown.values() for part in parts]
    if not every:
        return np.zeros((len(subjects), len(units), 0, 1, 1, 3), np.uint8)
    height, width = (max(part.shape[axis] for part in every) for axis in (0, 1))
    found = np.full((len(subjects), len(units), k, height, width, every[0].shape[2]), 255, np.uint8)
    for row, subject in enumerate(subjects):
        for column, unit in enumerate(units):
            for rank, part in enumerate(shown.get((subject, unit), [])[:k]):
                top, left = (height - part.shape[0]) // 2, (width - part.shape[1]) // 2
                found[row, column, rank, top : top + part.shape[0], left : left + part.shape[1]] = part
    return found


def _bytes_of(images: Tensor) -> np.ndarray:
    """(..., h, w, channels) uint8 of (..., channels, h, w) in [0, 1]."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).contiguous().numpy()


def _smaller(part: Tensor) -> np.ndarray:
    pixels = _bytes_of(part.detach().cpu().float())
    step = math.ceil(max(pixels.shape[:2]) / EXEMPLAR_SIDE)
    if step <= 1 or pixels.shape[2] not in (1, 3):
        return pixels
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
    reduced = np.asarray(image.reduce(step))
    return reduced if reduced.ndim == 3 else reduced[..., None]


def webp_arrays(pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Pictures (s, n, h, w, 3) as files of WebP, and where each ends.

    Raises:
        AtlasError: another number of channels.
    """
    if pictures.shape[-1] != 3:
        raise AtlasError(f"WebP holds images of 3 channels, these have {pictures.shape[-1]}: use images='raw'.")
    files = []
    for picture in pictures.reshape(-1, *pictures.shape[2:]):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "WEBP", quality=QUALITY)
        files.append(file.getvalue())
    ends = np.cumsum([len(file) for file in files]).astype(np.int64)
    return {"images.webp": np.frombuffer(b"".join(files), np.uint8), "images.ends": ends}
