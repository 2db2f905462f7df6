"""featviz: feature visualization for merged networks.

The public names are loaded when they are first used, so that `import featviz` and the command line's help need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featviz.align.alignment import Alignment as Alignment
    from featviz.align.alignment import align as align
    from featviz.align.alignment import load_alignment as load_alignment
    from featviz.align.groups import Group as Group
    from featviz.align.groups import PermutationGroups as PermutationGroups
    from featviz.align.groups import permutation_groups as permutation_groups
    from featviz.align.indexer import UnitIndexer as UnitIndexer
    from featviz.align.indexer import UnitMatch as UnitMatch
    from featviz.config import RenderConfig as RenderConfig
    from featviz.errors import FeatvizError as FeatvizError
    from featviz.merge.average import merge as merge
    from featviz.merge.barrier import LossBarrier as LossBarrier
    from featviz.merge.barrier import evaluate as evaluate
    from featviz.merge.barrier import loss_barrier as loss_barrier
    from featviz.render.ascent import Renderings as Renderings
    from featviz.render.color import color_matrix as color_matrix
    from featviz.render.single import render as render
    from featviz.triplet import Triplets as Triplets
    from featviz.triplet import render_unit_triplet as render_unit_triplet
    from featviz.zoo.pair import bundled_pair as bundled_pair

_HOME = {
    "Alignment": "featviz.align.alignment",
    "FeatvizError": "featviz.errors",
    "Group": "featviz.align.groups",
    "LossBarrier": "featviz.merge.barrier",
    "PermutationGroups": "featviz.align.groups",
    "RenderConfig": "featviz.config",
    "Renderings": "featviz.render.ascent",
    "Triplets": "featviz.triplet",
    "UnitIndexer": "featviz.align.indexer",
    "UnitMatch": "featviz.align.indexer",
    "align": "featviz.align.alignment",
    "bundled_pair": "featviz.zoo.pair",
    "color_matrix": "featviz.render.color",
    "evaluate": "featviz.merge.barrier",
    "load_alignment": "featviz.align.alignment",
    "loss_barrier": "featviz.merge.barrier",
    "merge": "featviz.merge.average",
    "permutation_groups": "featviz.align.groups",
    "render": "featviz.render.single",
    "render_unit_triplet": "featviz.triplet",
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'featviz' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
