"""The main job: the same unit in A, in B permuted into A's basis (B'), and in their merge, from one random start.

two models, a layer, units -> `Triplets`: the panel of three, with the match of every unit. Where the merge combines units and
no B' exists, a row is a merged unit beside its strongest members in A and in B.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import nn

from featviz.config import RenderConfig
from featviz.data import Data
from featviz.errors import RenderError
from featviz.matching.align import align
from featviz.matching.alignment import Alignment, LinearAlignment
from featviz.matching.indexer import UnitMatch, UnitMix
from featviz.merging.merge import merge
from featviz.panel import Panel
from featviz.panel_rendering import render_panel
from featviz.rendering import Renderings, ordinary_modes, resolve_device, uncompiled
from featviz.rendering.robustness.presets import Robustness
from featviz.subjects import Subject, as_subject, input_channels, with_normalization_of
from featviz.units import parse_units, unit_numbers
from featviz.weights.checks import check_same_architecture

log = logging.getLogger("featviz.triplet")
MATCHED_ANEW = (
    "merged is given without the alignment that it was made with: B is matched anew, perhaps to other units than were merged. "
    "Give alignment= (--alignment FILE)."
)


@dataclass(frozen=True, eq=False, repr=False)
class Triplets(Panel):
    """A panel whose first three subjects are A, B' and the merged network, with the match of every row; more may follow.

    matches: which unit of the original B stands at A's place, with score and margin. Where units are combined: `UnitMix`, the
        members of each merged unit; then the second subject is the original B, and a parent without a member has a white image
        and score NaN.
    method: how the units were matched. digest_a, digest_b: of the two networks that were aligned, B as it was given.
    """

    matches: tuple[UnitMatch | UnitMix, ...]
    method: str
    digest_a: str
    digest_b: str

    @property
    def a(self) -> Renderings:
        """Renderings in A."""
        return self.renderings[self.subjects[0]]

    @property
    def b(self) -> Renderings:
        """Renderings in B', or in the original B where units are combined."""
        return self.renderings[self.subjects[1]]

    @property
    def merged(self) -> Renderings:
        """Renderings in the merged network."""
        return self.renderings[self.subjects[2]]

    @property
    def mixed(self) -> bool:
        """Whether the merge combines units, so that there is no B'."""
        return isinstance(self.matches[0], UnitMix)

    @property
    def made_by(self) -> str:
        """What the footer of the picture says of how the subjects were made."""
        if self.mixed:
            return f"; merged by {self.method}, of each member its weight"
        return (
            f"; matched by {self.method}: score and, in brackets, its lead over the best other unit (negative: that one has "
            "another partner)"
        )

    def column_heads(self) -> list[str]:
        """What stands above each column."""
        return ["B' (B in A's order)" if name == "B'" else name for name in self.subjects]

    def shown(self, row: int) -> dict[str, str]:
        """Which unit each parent shows, how well they match, and what the merged unit is made of."""
        first, second, merged, *more = self.subjects
        shown = dict(zip((first, second, merged), _parents(self.matches[row]), strict=True))
        return shown | dict.fromkeys(more, f"unit {self.units[row]}")

    def record(self) -> dict[str, object]:
        """What was rendered, ready for JSON."""
        return {**super().record(), "matching": self.method, "digest_a": self.digest_a, "digest_b": self.digest_b}

    def unit_record(self, row: int) -> dict[str, object]:
        """A row of `record`: the match, and what a panel tells."""
        return {**super().unit_record(row), **self.matches[row].record()}


@ordinary_modes
def render_unit_triplet(
    model_a: nn.Module | Subject,
    model_b: nn.Module | Subject,
    layer: str,
    units: int | Sequence[int] | None = None,
    *,
    merged: nn.Module | Subject | None = None,
    alignment: Alignment | None = None,
    also: Mapping[str, nn.Module | Subject] | None = None,
    data: Data | None = None,
    config: RenderConfig = RenderConfig(),  # noqa: B008 (frozen)
    device: torch.device | str | None = None,
    robustness: Robustness | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Triplets:
    """Render units of a layer in A, in B permuted into A's basis, and in the merged network.

    >>> triplets = render_unit_triplet(model_a, model_b, "layer3.1.bn1", units=[17, 40])  # doctest: +SKIP
    >>> triplets.save("gallery/layer3.png")  # doctest: +SKIP

    All subjects start from the same spectrum and warps of each unit, so what differs comes from the weights; see
    `render_panel`. With an alignment that combines units ("zipit", "cca", "ot") B is the original B, and A and B show the
    strongest member that each has in the merged unit.

    Args:
        layer: a module name, or a unit spec `layer:0-7` where `units` is left out.
        units: of A, which are those of B' and of the merged network; None with a bare layer name: all of them.
        merged: the merged network in A's basis; None: `merge(model_a, model_b, alignment, data=data)`, with A's head where the
            two differ.
        alignment: of the two models, which may differ elsewhere; None: matched by activations where there is `data`, else by
            weights.
        also: further networks in A's basis by name, for columns after the merged one: the unaligned average, another merge.
        data: batches `x` or `(x, label)` for the matching and for the repair of the merge.
        config: size, steps, seed and the rest; `config.batch` units are rendered together, by default as many as fit.
        device: None: where the models are.
        robustness, progress: see `render_panel`.

    Raises:
        UnitError: a layer or unit that the network does not have. ModelError: models of different architecture, or NaN.
        AlignmentError: the alignment belongs to other models. RenderError: a size that the network cannot take.
        DeviceError: a device that is not there.
    """
    a, b = (_uncompiled(as_subject(model)) for model in (model_a, model_b))
    resolve_device(device, a.model)
    fed_a, fed_b = with_normalization_of(a, config), with_normalization_of(b, config)
    alignment = _alignment(fed_a, fed_b, alignment, data, config, merged is not None)
    layer, rows = _units(alignment, layer, units)
    differ = any(alignment.private)
    if merged is None:
        merged = merge(fed_a, fed_b, alignment, data=data, head=alignment.head)
    merged = _uncompiled(as_subject(merged))
    if not differ or layer not in dict(merged.model.named_modules()):
        check_same_architecture(a.model, merged.model)
    mixed, indexer = isinstance(alignment, LinearAlignment), alignment.indexer
    second = b if mixed else replace(b, model=alignment.permute(b.model))
    subjects = {"A": a, "B" if mixed else "B'": second, "merged": merged}
    for name, model in (also or {}).items():
        if name in subjects:
            raise RenderError(f"also names {name!r}, which is a column already: give it another name.")
        subjects[name] = as_subject(model)
    matches = tuple((indexer.mix if mixed else indexer.match)(layer, unit) for unit in rows)
    strongest = {"A": [match.a for match in matches], "B": [match.b for match in matches]} if mixed else None
    panel = render_panel(
        subjects, layer, rows, own_units=strongest, axis=indexer.units(layer).axis, config=config, device=device,
        robustness=robustness, progress=progress,
    )  # fmt: skip
    shown = {part.name: getattr(panel, part.name) for part in fields(panel)}
    return Triplets(
        **shown, matches=matches, method=alignment.method, digest_a=alignment.digest_a, digest_b=alignment.digest_b
    )


def _uncompiled(subject: Subject) -> Subject:
    return replace(subject, model=uncompiled(subject.model))


def _parents(match: UnitMatch | UnitMix) -> tuple[str, str, str]:
    """Captions of A, B (or B') and the merged network."""
    if isinstance(match, UnitMatch):
        agreed = "no partner" if match.unmatched else f"score {match.score:.2f} ({match.margin:+.2f})"
        how = "fixed" if match.fixed else agreed
        return f"A:{match.a}", f"B:{match.b}, {how}", f"A:{match.a} + B:{match.b}"
    names = []
    for model in ("A", "B"):
        own = [member for member in match.members if member.model == model]
        more = f" + {len(own) - 1} more" if len(own) > 1 else ""
        names.append(f"{model}:{own[0].unit} ({own[0].weight:.2f}){more}" if own else f"no member in {model}")
    if match.fixed:
        agreed = "fixed"
    elif match.a is None or match.b is None:
        agreed = "of one network"
    else:
        agreed = "one part is constant" if match.unmatched else f"agree {match.score:.2f}"
    return names[0], names[1], f"{len(match.members)} members, {agreed}"


def _alignment(
    a: Subject, b: Subject, alignment: Alignment | None, data: Data | None, config: RenderConfig, merged: bool
) -> Alignment:
    """The one given, once it is known to belong to the models, or a new one, of which is warned where `merged` is given."""
    if alignment is not None:
        alignment.check(a.model, b.model)
        return alignment
    if merged:
        log.warning(MATCHED_ANEW)
    first = next(a.model.parameters())
    random = torch.Generator().manual_seed(config.seed)
    example = torch.rand(1, input_channels(a, config), *config.input_hw, generator=random).to(first)
    return align(a, b, example, "weights" if data is None else "activations", data)


def _units(alignment: Alignment, layer: str, units: int | Sequence[int] | None) -> tuple[str, list[int]]:
    """The layer's name and the units asked for, all known to exist."""
    if units is None and layer not in alignment.indexer.layers:
        spec = parse_units(layer)
        layer, units = spec.layer, spec.channels
    if units is None:
        units = range(alignment.indexer.units(layer).width)
    return layer, alignment.indexer.check(layer, unit_numbers(units)).tolist()
