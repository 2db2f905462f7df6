"""Panels: the same units of one layer in any number of networks, each row from one random start.

named networks, a layer, units -> `Panel`: a rendering per unit and subject, and every subject's response to every image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Self

from PIL import Image
from torch import Tensor

from featviz.config import RenderConfig
from featviz.errors import UnitError
from featviz.evidence.exemplars.exemplar_picture import ExemplarPicture
from featviz.evidence.fates.fates import MERGED, Fates
from featviz.evidence.fates.stored_fates import StoredFates
from featviz.gallery.bands import bands_explained, drawable
from featviz.gallery.grid import Cell, Row, grid
from featviz.gallery.picture import Picture, finite
from featviz.rendering import Renderings
from featviz.subjects import Normalization
from featviz.version import __version__

OwnUnits = Mapping[str, Sequence[int | None]]


@dataclass(frozen=True, eq=False)
class Panel(Picture):
    """Renderings of some units of one layer in several subjects; row by row the same unit and the same random start.

    renderings: by subject, in the order of the columns: `Renderings` with images (unit, c, h, w) in [0, 1], score (unit,) and
        trace (step, unit).
    units: the unit that each row is called after and that its seed is made from.
    own_units: which unit each subject shows in each row, `units` for most; None where a subject has no such unit: the image is
        white there and the score NaN.
    cross: (unit, image of, seen by), both in the order of the columns: the score that the subject `seen by` gives, without
        transforms, to the image made for the subject `image of`. Its diagonal holds every subject's own scores; NaN where a
        subject has no unit.
    exemplars: the best images of the units in subjects of the same names, shown under each rendering; None: not shown.
    fates: what became of the units in the merged network, told in its captions; None: not told. See `with_evidence`.
    robustness: the random transforms: a preset's name, or what a pipeline says of itself.
    axis: of the units in the layer's output, as it was given; None: 1, and the last one of tokens, a linear layer or LayerNorm.
    normalizations, digests: how the input of each subject is normalized and who says so; the digest of its weights.
    """

    layer: str
    units: tuple[int, ...]
    renderings: Mapping[str, Renderings]
    own_units: Mapping[str, tuple[int | None, ...]]
    cross: Tensor
    config: RenderConfig
    normalizations: Mapping[str, Normalization]
    digests: Mapping[str, str]
    exemplars: ExemplarPicture | None = field(default=None, kw_only=True)
    fates: Fates | StoredFates | None = field(default=None, kw_only=True)
    robustness: str = field(default="affine", kw_only=True)
    axis: int | None = field(default=None, kw_only=True)

    @property
    def title(self) -> str:
        """The layer."""
        return self.layer

    def __repr__(self) -> str:
        """What is shown, in one line; a picture in a notebook."""
        return f"{type(self).__name__}({self.layer!r}, {len(self)} units in {', '.join(self.subjects)})"

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.units)

    def __getitem__(self, subject: str) -> Renderings:
        """The renderings of a subject, by its name."""
        return self.renderings[subject]

    def with_evidence(self, exemplars: ExemplarPicture | None = None, fates: Fates | StoredFates | None = None) -> Self:
        """The same panel that shows exemplars under its renderings, and tells agreement, fidelity and verdict of each unit.

        Args:
            exemplars: of this layer, for subjects of the same names (`exemplar_picture`). fates: of this layer.

        Raises:
            UnitError: exemplars or fates of other layers, or fates without a column "merged".
        """
        if exemplars is not None and exemplars.layer != self.layer:
            raise UnitError(
                f"the exemplars are of {exemplars.layer}, the panel shows {self.layer}: give those of its layer."
            )
        if fates is not None:
            fates[self.layer]
            if MERGED not in self.subjects:
                raise UnitError(f"the fates are those of {MERGED!r}, which no column shows: render it under that name.")
        return replace(self, exemplars=exemplars, fates=fates)

    @property
    def subjects(self) -> tuple[str, ...]:
        """The names of the subjects, in the order of the columns."""
        return tuple(self.renderings)

    def grid(self, per_line: int | None = None, *, bands: Sequence[int] | None = None) -> Image.Image:
        """The captioned picture: a row per unit, a column per subject.

        Args:
            per_line: how many units stand side by side; None: two where there are more than six and at most three subjects.
            bands: of images of other than 3 channels the three, counted from 0, that are shown as red, green and blue; None:
                gray for 1 channel, color for 3, otherwise a gray tile for each.

        Raises:
            OutputError: bands that the images do not have.
        """
        per_line = 1 if self.exemplars is not None and per_line is None else per_line
        if per_line is None:
            per_line = 2 if len(self) > 6 and len(self.subjects) <= 3 else 1
        rows = []
        for number in range(len(self)):
            rows.append(self._row(number, bands))
            if self.exemplars is not None:
                shown = {name: units[number] for name, units in self.own_units.items()}
                rows.append(Row("best images", self.exemplars.cells(shown, bands)))
        channels = next(iter(self.renderings.values())).images.shape[1]
        height, width = self.config.image_hw
        robustness = "" if self.robustness == "affine" else f", robustness {self.robustness.partition('(')[0]}"
        footer = (
            f"Each row has one random start (seed {self.config.seed}); {height} x {width} px, {self.config.steps_in_words}"
            f"{robustness}{self.made_by}. Activation: mean over the map, without "
            f"warps.{self._told_of_fates}{bands_explained(bands, channels)}"
        )
        return grid(self.column_heads(), rows, self.layer, footer, per_line)

    def column_heads(self) -> list[str]:
        """What stands above each column: the subject's name."""
        return list(self.subjects)

    @property
    def made_by(self) -> str:
        """What the footer of the picture says of how the subjects were made; may be empty."""
        return ""

    @property
    def _told_of_fates(self) -> str:
        if self.fates is None:
            return ""
        return " c: correlation of the parents' units on images; f: of the merged unit with their mean."

    def captions(self, row: int) -> dict[str, list[str]]:
        """The lines under the images of a row, by subject: what it shows, and the score that its image reached."""
        lines = {name: [shown] if shown else [] for name, shown in self.shown(row).items()}
        for name, part in self.renderings.items():
            if part.dead[row]:
                lines[name].append("no gradient: dead here")
            elif not part.score[row].isnan():
                lines[name].append(f"activation {part.score[row].item():#.3g}")
        if self.fates is not None:
            lines[MERGED] += self.fates.caption(self.layer, self.units[row])
        return lines

    def shown(self, row: int) -> dict[str, str]:
        """What each subject shows in a row, in words; empty where it is the row's own unit."""
        shown = {name: units[row] for name, units in self.own_units.items()}
        if all(unit == self.units[row] for unit in shown.values()):
            return dict.fromkeys(shown, "")
        return {name: "no such unit" if unit is None else f"unit {unit}" for name, unit in shown.items()}

    def record(self) -> dict[str, object]:
        """What was rendered, ready for JSON."""
        return {
            "featviz": __version__,
            "layer": self.layer,
            "subjects": list(self.subjects),
            "cross_axes": ["image of", "seen by"],
            "digests": dict(self.digests),
            "normalization": {name: value.record() for name, value in self.normalizations.items()},
            "config": asdict(self.config) | {"robustness": self.robustness},
            "units": [self.unit_record(row) for row in range(len(self))],
        }

    def unit_record(self, row: int) -> dict[str, object]:
        """A row of `record`, with fate and exemplars where the panel has them."""
        own = {name: units[row] for name, units in self.own_units.items()}
        restart = int(next(iter(self.renderings.values())).restart[row])
        return {
            "unit": self.units[row],
            "own_units": own,
            "activation": {name: finite(part.score[row].item()) for name, part in self.renderings.items()},
            "dead": [name for name, part in self.renderings.items() if part.dead[row]],
            "restart": restart,
            "cross": [[finite(value) for value in line] for line in self.cross[row].tolist()],
            **self._evidence(row),
        }

    def _evidence(self, row: int) -> dict[str, object]:
        evidence: dict[str, object] = {}
        if self.fates is not None:
            evidence["fate"] = self.fates[self.layer].row(self.units[row])
        if self.exemplars is not None:
            found = self.exemplars.exemplars.found
            evidence["exemplars"] = {
                name: [exemplar.record() for exemplar in found(self.layer, unit, name)]
                for name, units in self.own_units.items()
                if (unit := units[row]) is not None and name in self.exemplars.subjects
            }
        return evidence

    def _row(self, row: int, bands: Sequence[int] | None) -> Row:
        captions = self.captions(row)
        images = {name: drawable(part.images[row].numpy(), bands) for name, part in self.renderings.items()}
        return Row(f"unit {self.units[row]}", [Cell(image, captions[name]) for name, image in images.items()])
