"""featviz: feature visualization for merged networks.

The public names are loaded when they are first used, so that `import featviz` and the command line's help need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featviz.algebra.alignment import Alignment as Alignment
    from featviz.algebra.alignment import align as align
    from featviz.algebra.alignment import load_alignment as load_alignment
    from featviz.algebra.discovery import permutation_groups as permutation_groups
    from featviz.algebra.groups import Group as Group
    from featviz.algebra.groups import PermutationGroups as PermutationGroups
    from featviz.algebra.indexer import UnitIndexer as UnitIndexer
    from featviz.algebra.indexer import UnitMatch as UnitMatch
    from featviz.algebra.many import ManyAlignment as ManyAlignment
    from featviz.algebra.many import align_many as align_many
    from featviz.config import RenderConfig as RenderConfig
    from featviz.errors import FeatvizError as FeatvizError
    from featviz.exchange import read_permutations as read_permutations
    from featviz.exchange import write_permutations as write_permutations
    from featviz.merging.average import merge as merge
    from featviz.merging.barrier import LossBarrier as LossBarrier
    from featviz.merging.barrier import evaluate as evaluate
    from featviz.merging.barrier import loss_barrier as loss_barrier
    from featviz.merging.baselines import evaluate_ensemble as evaluate_ensemble
    from featviz.merging.connectivity import LayerConnectivity as LayerConnectivity
    from featviz.merging.connectivity import layer_connectivity as layer_connectivity
    from featviz.merging.many import merge_many as merge_many
    from featviz.merging.partial import merge_heads as merge_heads
    from featviz.picture.ascent import Renderings as Renderings
    from featviz.picture.color import color_matrix as color_matrix
    from featviz.picture.single import render as render
    from featviz.picture.spectrum import magnitude_profile as magnitude_profile
    from featviz.plots import plot_barriers as plot_barriers
    from featviz.plots import plot_connectivity as plot_connectivity
    from featviz.plots import plot_variance as plot_variance
    from featviz.triplet import Triplets as Triplets
    from featviz.triplet import render_unit_triplet as render_unit_triplet
    from featviz.zoo.pair import bundled_pair as bundled_pair

_HOME = {
    "Alignment": "featviz.algebra.alignment",
    "FeatvizError": "featviz.errors",
    "Group": "featviz.algebra.groups",
    "LossBarrier": "featviz.merging.barrier",
    "PermutationGroups": "featviz.algebra.groups",
    "RenderConfig": "featviz.config",
    "Renderings": "featviz.picture.ascent",
    "Triplets": "featviz.triplet",
    "UnitIndexer": "featviz.algebra.indexer",
    "UnitMatch": "featviz.algebra.indexer",
    "ManyAlignment": "featviz.algebra.many",
    "align_many": "featviz.algebra.many",
    "merge_many": "featviz.merging.many",
    "align": "featviz.algebra.alignment",
    "bundled_pair": "featviz.zoo.pair",
    "color_matrix": "featviz.picture.color",
    "evaluate_ensemble": "featviz.merging.baselines",
    "LayerConnectivity": "featviz.merging.connectivity",
    "layer_connectivity": "featviz.merging.connectivity",
    "plot_barriers": "featviz.plots",
    "plot_connectivity": "featviz.plots",
    "plot_variance": "featviz.plots",
    "evaluate": "featviz.merging.barrier",
    "load_alignment": "featviz.algebra.alignment",
    "loss_barrier": "featviz.merging.barrier",
    "magnitude_profile": "featviz.picture.spectrum",
    "merge": "featviz.merging.average",
    "merge_heads": "featviz.merging.partial",
    "permutation_groups": "featviz.algebra.discovery",
    "read_permutations": "featviz.exchange",
    "render": "featviz.picture.single",
    "render_unit_triplet": "featviz.triplet",
    "write_permutations": "featviz.exchange",
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
