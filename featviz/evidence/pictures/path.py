"""A unit between two networks: rendered at evenly spaced weights of B', with and without repair.

A, B, alignment, units -> `UnitPath`: the images of each unit in (1 - w) A + w B' for w = 0 ... 1, all from one start, with
what A and B' make of each image, and the accuracy at each weight.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from featviz.config import MergeConfig, RenderConfig
from featviz.data import Data
from featviz.gallery.bands import drawable
from featviz.gallery.grid import Cell, Row, grid
from featviz.gallery.picture import Picture, finite
from featviz.isolation import ordinary_modes
from featviz.matching.alignment import Alignment
from featviz.merging.barrier import evaluate
from featviz.merging.merge import merge
from featviz.rendering.render import resolve_device
from featviz.rendering.together import cross_scores, render_together, unit_extractors, units_by_subject
from featviz.subjects import Subject, as_subject, input_normalization, with_normalization_of


@dataclass(frozen=True, eq=False)
class UnitPath(Picture):
    """Renderings of some units of a layer in the networks between A and B'.

    Attributes:
        units: of A, one per row.
        weights: of B', from 0 to 1.
        images: "averaged" and, where there was a repair, "repaired": (unit, weight, c, h, w) in [0, 1]; the ends are A and B'.
        activations: by the same names (unit, weight), without transforms.
        transfer: by the same names (unit, weight, 2): the activation of the unit in A and in B' for the image, over the
            activation for its own.
        accuracies: by the same names (weight,), in percent; empty without labelled data.
    """

    layer: str
    units: tuple[int, ...]
    weights: tuple[float, ...]
    images: Mapping[str, Tensor]
    activations: Mapping[str, Tensor]
    transfer: Mapping[str, Tensor]
    accuracies: Mapping[str, tuple[float, ...]]
    config: RenderConfig

    @property
    def title(self) -> str:
        """The layer."""
        return f"{self.layer} from A to B'"

    def grid(self, *, bands: Sequence[int] | None = None) -> Image.Image:
        """A row per unit and kind of merge, a column per weight of B'."""
        footer = (
            f"(1 - w) A + w B'; every row of a unit has one start (seed {self.config.seed}), {self.config.steps_in_words}. "
            "Activation: mean over the map, without warps. A, B': their activation for this image, over that for their "
            "own."
        )
        heads = [f"w = {weight:g}" + {0.0: " (A)", 1.0: " (B')"}.get(weight, "") for weight in self.weights]
        rows = [
            Row(f"unit {unit}, {kind}", [self._cell(kind, row, at, bands) for at in range(len(self.weights))])
            for row, unit in enumerate(self.units)
            for kind in self.images
        ]
        return grid(heads, rows, self.title, footer)

    def _cell(self, kind: str, row: int, at: int, bands: Sequence[int] | None) -> Cell:
        of_a, of_b = self.transfer[kind][row, at].tolist()
        lines = [f"activation {self.activations[kind][row, at]:.3g}", f"A {of_a:.0%}, B' {of_b:.0%}"]
        if kind in self.accuracies:
            lines.append(f"accuracy {self.accuracies[kind][at]:.1f} %")
        return Cell(drawable(self.images[kind][row, at].numpy(), bands), lines)

    def record(self) -> dict[str, object]:
        """Ready for JSON."""
        return {
            "layer": self.layer,
            "weights": list(self.weights),
            "accuracies": {kind: list(values) for kind, values in self.accuracies.items()},
            "config": asdict(self.config),
            "rows": [
                {
                    "unit": unit,
                    **{
                        kind: {
                            "activation": [finite(value) for value in self.activations[kind][row].tolist()],
                            "transfer": [[finite(v) for v in pair] for pair in self.transfer[kind][row].tolist()],
                        }
                        for kind in self.images
                    },
                }
                for row, unit in enumerate(self.units)
            ],
        }


@ordinary_modes
def render_unit_path(
    model_a: nn.Module | Subject,
    model_b: nn.Module | Subject,
    layer: str,
    units: int | Sequence[int],
    *,
    alignment: Alignment | None = None,
    points: int = 5,
    repair: str = "auto",
    data: Data | None = None,
    test_data: Iterable[tuple[Tensor, Tensor]] | None = None,
    config: RenderConfig = RenderConfig(),  # noqa: B008 (frozen)
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> UnitPath:
    """Render units of a layer in the networks between A and B'.

    >>> path = render_unit_path(a, b, "layer3.1.bn1", [17], alignment=alignment, data=loader)  # doctest: +SKIP
    >>> path.save("out/path.png")  # doctest: +SKIP

    Args:
        model_a, model_b: the parents, or `Subject`s of them; left as they were. All merges are normalized as A is, and
            have A's head where the two differ.
        layer, units: a module name, and units of A, one row each.
        alignment: a permutation of B onto A; None: B as it is.
        points: evenly spaced weights of B', from 0 to 1; 2 or more.
        repair, data: as for `featviz.merge`, at the weights between. Without data there is no repaired row.
        test_data: batches (x, label) for the accuracies, x in [0, 1]; iterated once per network.
        config: size, steps, seed and the rest.
        device: None: where A is.
        progress: called with (steps done, steps to do) over all networks.

    Raises:
        AlignmentError: an alignment of other networks, or one that combines units. RenderError: no unit. UnitError: a layer or
            unit that A does not have.
    """
    a, b = as_subject(model_a), as_subject(model_b)
    (rows,) = units_by_subject(["A"], units).values()
    steps = MergeConfig(points=points).points
    weights = torch.linspace(0, 1, steps, dtype=torch.float64).tolist()
    normalization = input_normalization(a, config)
    kinds = {"averaged": "none"} | ({"repaired": repair} if data is not None and repair != "none" else {})
    fed_a, fed_b = with_normalization_of(a, config), with_normalization_of(b, config)
    head = None if alignment is None else alignment.head
    merges = {
        (kind, weight): merge(fed_a, fed_b, alignment, weight, how, data if how != "none" else None, head=head).eval()
        for kind, how in kinds.items()
        for weight in weights
        if kind == "averaged" or 0 < weight < 1
    }
    named = {
        f"{kind} {weight}": Subject(network, mean=normalization.mean, std=normalization.std)
        for (kind, weight), network in merges.items()
    }
    place = resolve_device(device, a.model)
    networks = unit_extractors(named, layer, dict.fromkeys(named, rows), config, place)
    made = render_together(networks, [(layer, unit) for unit in rows], progress=progress)
    ends = {name: networks[name] for name in (f"averaged {weights[0]}", f"averaged {weights[-1]}")}
    own = torch.stack([made[name].score for name in ends], 1)
    seen = dict(zip(made, (cross_scores(ends, made) / own[:, None]).unbind(1), strict=True))
    found: dict[tuple[str, float], float] = {}
    if test_data is not None:
        found = {(kind, weight): evaluate(named[f"{kind} {weight}"], test_data)[1] for kind, weight in merges}
    order = {kind: [(kind if 0 < weight < 1 else "averaged", weight) for weight in weights] for kind in kinds}
    names = {kind: [f"{of} {weight}" for of, weight in keys] for kind, keys in order.items()}
    return UnitPath(
        layer,
        rows,
        tuple(weights),
        {kind: torch.stack([made[name].images for name in own], 1) for kind, own in names.items()},
        {kind: torch.stack([made[name].score for name in own], 1) for kind, own in names.items()},
        {kind: torch.stack([seen[name] for name in own], 1) for kind, own in names.items()},
        {kind: tuple(found[key] for key in keys) for kind, keys in order.items()} if found else {},
        config,
    )
