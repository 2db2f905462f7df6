"""The main job: the same unit in A, in B permuted into A's basis (B'), and in their merge, under one random draw.

Where the merge combines units and no B' exists, a row is a merged unit beside its strongest members in A and in B.

two models, a layer, units -> `Triplets`: three renderings per unit, its match, and every subject's response to every image.
"""

import io
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from featviz.config import RenderConfig
from featviz.data import Data
from featviz.files import write_atomically
from featviz.gallery.grid import Cell, Row, grid, save_png
from featviz.matching.alignment import Alignment, align
from featviz.matching.indexer import UnitMatch, UnitMix, finite
from featviz.merging.average import merge
from featviz.model_checks import check_finite, check_same_architecture
from featviz.rendering import (
    Objective,
    Renderings,
    Trunk,
    ascend,
    channel,
    in_turn,
    must_fit,
    ordinary_modes,
    resolve_device,
    score_images,
    starts_with_gradient,
    uncompiled,
    warn_of_dead,
)
from featviz.subjects import input_channels
from featviz.units import format_unit, parse_units

SUBJECTS = ("A", "B'", "merged")


@dataclass(frozen=True, eq=False)
class Triplets:
    """The renderings of some units of one layer in the three subjects, row by row the same unit.

    a, b, merged: `Renderings`; images (unit, c, h, w) in [0, 1], score (unit,), trace (step, unit). `b` is B'.
    matches: which unit of the original B stands at A's place, with score and margin. Where units are combined: `UnitMix`, the
        members of each merged unit; then `b` is the original B, and a parent without a member has a white image and score NaN.
    cross: (unit, image of, seen by) in the order A, B', merged: the score that the subject `seen by` gives, without
        transforms, to the image made for the subject `image of`. Its diagonal is every subject's own score; NaN
        where a subject has no unit.
    """

    layer: str
    matches: tuple[UnitMatch | UnitMix, ...]
    a: Renderings
    b: Renderings
    merged: Renderings
    cross: Tensor
    config: RenderConfig
    method: str
    digests: tuple[str, str]

    def __len__(self) -> int:
        return len(self.matches)

    @property
    def mixed(self) -> bool:
        """Whether the merge combines units, so that there is no B'."""
        return isinstance(self.matches[0], UnitMix)

    @property
    def subjects(self) -> tuple[str, str, str]:
        return ("A", "B", "merged") if self.mixed else SUBJECTS

    def grid(self, per_line: int | None = None) -> Image.Image:
        """The captioned picture: a row per unit, columns A, B', merged; `per_line` units side by side (None: by number)."""
        if per_line is None:
            per_line = 1 if len(self) <= 6 else 2
        rows = [self._row(number) for number in range(len(self))]
        height, width = self.config.image_hw
        footer = (
            f"Each row starts from one random draw (seed {self.config.seed}); {height} x {width} px, {self.config.steps} "
            f"steps; {'merged' if self.mixed else 'matched'} by {self.method}. Activation: mean over the map, without "
            "transforms."
        )
        heads = ["A", "B" if self.mixed else "B' (B in A's basis)", "merged"]
        return grid(heads, rows, self.layer, footer, per_line)

    def record(self) -> dict[str, object]:
        """What was rendered, ready for JSON."""
        parts = dict(zip(self.subjects, (self.a, self.b, self.merged), strict=True))
        units = [
            {
                **match.record(),
                "activation": {name: finite(part.score[row].item()) for name, part in parts.items()},
                "dead": [name for name, part in parts.items() if part.dead[row]],
                "restart": int(self.merged.restart[row]),
                "cross": [[finite(value) for value in line] for line in self.cross[row].tolist()],
            }
            for row, match in enumerate(self.matches)
        ]
        return {
            "featviz": version("featviz"),
            "layer": self.layer,
            "subjects": list(self.subjects),
            "cross_axes": ["image of", "seen by"],
            "matching": self.method,
            "digest_a": self.digests[0],
            "digest_b": self.digests[1],
            "config": asdict(self.config),
            "units": units,
        }

    def save(self, path: str | Path) -> Path:
        """Write the grid as PNG to `path`, and `record()` as JSON beside it.

        Raises:
            OutputError: the place cannot be written.
        """
        path = Path(path).with_suffix(".png")
        text = json.dumps(self.record(), indent=1) + "\n"
        save_png(self.grid(), path, {"Title": self.layer, "Software": f"featviz {version('featviz')}"})
        write_atomically(path.with_suffix(".json"), lambda part: part.write_text(text, encoding="utf-8"))
        return path

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.grid().save(buffer, "PNG")
        return buffer.getvalue()

    def _row(self, row: int) -> Row:
        match = self.matches[row]
        cells = []
        for name, part in zip(_captions(match), (self.a, self.b, self.merged), strict=True):
            reached = "no gradient: dead here" if part.dead[row] else f"activation {part.score[row].item():.3g}"
            caption = [name] if part.score[row].isnan() and not part.dead[row] else [name, reached]
            cells.append(Cell(np.asarray(part.images[row].permute(1, 2, 0)), caption))
        return Row(f"unit {_own_units(match)[2]}", cells)


@ordinary_modes
def render_unit_triplet(
    model_a: nn.Module,
    model_b: nn.Module,
    layer: str,
    units: int | Sequence[int] | None = None,
    *,
    merged: nn.Module | None = None,
    alignment: Alignment | None = None,
    data: Data | None = None,
    config: RenderConfig = RenderConfig(),  # noqa: B008 (frozen)
    device: torch.device | str | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Triplets:
    """Render units of a layer in A, in B permuted into A's basis, and in the merged network.

    >>> triplets = render_unit_triplet(model_a, model_b, "layer3.1.bn1", units=[17, 40])  # doctest: +SKIP
    >>> triplets.save("gallery/layer3.png")  # doctest: +SKIP

    All three start from the same draw of each unit (spectrum and warps), so what differs comes from the weights. A unit
    that has no gradient in some subject at its start moves to another draw in all of them; where none helps it is
    reported as dead there. The models come back as they were. With an alignment that combines units ("zipit", "cca", "ot")
    B is the original B, and A and B show the strongest member that each has in the merged unit.

    Args:
        layer: a module name, or a unit spec `layer:0-7` where `units` is left out.
        units: units of A (places of the merged network); None with a bare layer name: all of them.
        merged: the merged network in A's basis; None: `merge(model_a, model_b, alignment, data=data)`.
        alignment: of the two models; None: matched by activations where there is `data`, else by weights.
        data: batches `x` or `(x, label)` for the matching and for the repair of the merge.
        config: size, steps, seed and the rest; `config.batch` units are rendered together, by default as many as fit.
        device: None: where the models are.
        transform: images in [0, 1] -> what the networks are fed, in place of the warps (a kornia pipeline, for example);
            its randomness is its own, and then not shared by the subjects.
        progress: called with (steps done, steps to do) over all subjects.

    Raises:
        UnitError: a layer or unit that the network does not have. ModelError: models of different architecture, or NaN.
        AlignmentError: the alignment belongs to other models. RenderError: a size that the network cannot take.
        DeviceError: a device that is not there.
    """
    model_a, model_b = uncompiled(model_a), uncompiled(model_b)
    merged = None if merged is None else uncompiled(merged)
    place = resolve_device(device, model_a)
    check_same_architecture(model_a, model_b)
    with in_turn():
        alignment = _alignment(model_a, model_b, alignment, data, config)
        layer, channels = _units(alignment, layer, units)
        if merged is None:
            merged = merge(model_a, model_b, alignment, data=data)
        check_same_architecture(model_a, merged)
        mixed, indexer = alignment.mixing is not None, alignment.indexer
        subjects = (model_a, model_b if mixed else alignment.permute(model_b), merged)
    for name, model in zip(SUBJECTS, subjects, strict=True):
        check_finite(model, name)

    matches = tuple((indexer.mix if mixed else indexer.match)(layer, unit) for unit in channels)
    missing = torch.tensor([[unit is None for unit in _own_units(match)] for match in matches])
    keys = [(layer, unit) for unit in channels]
    with ExitStack() as stack:
        climbs = [
            (stack.enter_context(Trunk(model, (layer,), config, place)), _objective(alignment, layer, matches, number))
            for number, model in enumerate(subjects)
        ]
        with must_fit(len(keys), config, place):
            starts, living = starts_with_gradient(climbs, keys, config, transform)
        parts = []
        for number, (trunk, objective) in enumerate(climbs):
            report = _share(progress, number, len(climbs))
            climbed = ascend(trunk, objective, starts, config, transform, report)
            parts.append(_blanked(replace(climbed, dead=climbed.dead | ~living[number]), missing[:, number]))
        seen = [
            torch.stack([part.score if climb is own else score_images(*climb, part.images) for climb in climbs], 1)
            for own, part in zip(climbs, parts, strict=True)
        ]
    digests = (alignment.digest_a, alignment.digest_b)
    cross = torch.stack(seen, 1).masked_fill(missing[:, :, None] | missing[:, None, :], float("nan"))
    triplets = Triplets(layer, matches, parts[0], parts[1], parts[2], cross, config, alignment.method, digests)
    _warn_of_dead(triplets)
    return triplets


def _own_units(match: UnitMatch | UnitMix) -> tuple[int | None, int | None, int]:
    """Which unit of a row each subject shows; None where a parent has no member in the merged unit."""
    return (match.a, match.b, match.unit) if isinstance(match, UnitMix) else (match.a, match.a, match.a)


def _objective(alignment: Alignment, layer: str, matches: Sequence[UnitMatch | UnitMix], subject: int) -> Objective:
    """A subject's own units; for one that it does not have the unit of that number stands in, to be blanked."""
    units = []
    for match in matches:
        own = _own_units(match)
        unit = own[subject]
        units.append(own[2] if unit is None else unit)
    return channel(layer, units, alignment.indexer.units(layer).axis)


def _blanked(part: Renderings, missing: Tensor) -> Renderings:
    """White images and scores NaN where a subject has no unit to show."""
    images = part.images.masked_fill(missing[:, None, None, None], 1.0)
    nan = float("nan")
    return replace(
        part,
        images=images,
        score=part.score.masked_fill(missing, nan),
        trace=part.trace.masked_fill(missing, nan),
        dead=part.dead & ~missing,
    )


def _captions(match: UnitMatch | UnitMix) -> tuple[str, str, str]:
    if isinstance(match, UnitMatch):
        how = "fixed" if match.fixed else f"score {match.score:.2f} ({match.margin:+.2f})"
        return f"A:{match.a}", f"B:{match.b}, {how}", f"A:{match.a} + B:{match.b}"
    names = []
    for model in ("A", "B"):
        own = [member for member in match.members if member.model == model]
        more = f" + {len(own) - 1} more" if len(own) > 1 else ""
        names.append(f"{model}:{own[0].unit} ({own[0].weight:.2f}){more}" if own else f"no member in {model}")
    one_sided = match.a is None or match.b is None
    agreed = "fixed" if match.fixed else "of one network" if one_sided else f"agree {match.score:.2f}"
    return names[0], names[1], f"{len(match.members)} members, {agreed}"


def _alignment(
    model_a: nn.Module, model_b: nn.Module, alignment: Alignment | None, data: Data | None, config: RenderConfig
) -> Alignment:
    """The one given, once it is known to belong to the models, or a new one."""
    if alignment is not None:
        alignment.check(model_a, model_b)
        return alignment
    first = next(model_a.parameters())
    random = torch.Generator().manual_seed(config.seed)
    example = torch.rand(1, input_channels(model_a, config), *config.input_hw, generator=random).to(first)
    return align(model_a, model_b, example, "weights" if data is None else "activations", data)


def _units(alignment: Alignment, layer: str, units: int | Sequence[int] | None) -> tuple[str, list[int]]:
    """The layer's name and the units asked for, all known to exist."""
    if units is None and layer not in alignment.indexer.layers:
        spec = parse_units(layer)
        layer, units = spec.layer, spec.channels
    if units is None:
        units = range(alignment.indexer.units(layer).width)
    return layer, alignment.indexer.check(layer, list(units) if not isinstance(units, int) else units).tolist()


def _share(progress: Callable[[int, int], None] | None, number: int, of: int) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, of * total)


def _warn_of_dead(triplets: Triplets) -> None:
    parts = zip(triplets.subjects, (triplets.a, triplets.b, triplets.merged), strict=True)
    dead = [
        f"{format_unit(triplets.layer, _own_units(match)[number] or 0)} in {name}"
        for number, (name, part) in enumerate(parts)
        for match, flag in zip(triplets.matches, part.dead.tolist(), strict=True)
        if flag
    ]
    warn_of_dead(dead, triplets.config, stacklevel=3)
