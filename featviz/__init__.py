"""featviz: feature visualization for merged networks.

The public names are loaded when they are first used, so that `import featviz` and the command line's help need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featviz.config import RenderConfig as RenderConfig
    from featviz.errors import FeatvizError as FeatvizError
    from featviz.gallery.plots import plot_barriers as plot_barriers
    from featviz.gallery.plots import plot_connectivity as plot_connectivity
    from featviz.gallery.plots import plot_variance as plot_variance
    from featviz.matching.alignment import Alignment as Alignment
    from featviz.matching.alignment import align as align
    from featviz.matching.alignment import load_alignment as load_alignment
    from featviz.matching.exchange import read_permutations as read_permutations
    from featviz.matching.exchange import write_permutations as write_permutations
    from featviz.matching.indexer import UnitIndexer as UnitIndexer
    from featviz.matching.indexer import UnitMatch as UnitMatch
    from featviz.matching.multi_network import ManyAlignment as ManyAlignment
    from featviz.matching.multi_network import align_many as align_many
    from featviz.merging.average import merge as merge
    from featviz.merging.barrier import LossBarrier as LossBarrier
    from featviz.merging.barrier import evaluate as evaluate
    from featviz.merging.barrier import loss_barrier as loss_barrier
    from featviz.merging.connectivity import LayerConnectivity as LayerConnectivity
    from featviz.merging.connectivity import layer_connectivity as layer_connectivity
    from featviz.merging.ensemble import evaluate_ensemble as evaluate_ensemble
    from featviz.merging.heads import merge_heads as merge_heads
    from featviz.merging.multi_network import merge_many as merge_many
    from featviz.rendering.image.color import color_matrix as color_matrix
    from featviz.rendering.image.spectrum import magnitude_profile as magnitude_profile
    from featviz.rendering.optimize.loop import Renderings as Renderings
    from featviz.rendering.render import render as render
    from featviz.subjects import Subject as Subject
    from featviz.symmetry.discovery import permutation_groups as permutation_groups
    from featviz.symmetry.groups import Group as Group
    from featviz.symmetry.groups import PermutationGroups as PermutationGroups
    from featviz.triplet import Triplets as Triplets
    from featviz.triplet import render_unit_triplet as render_unit_triplet
    from featviz.zoo.pair import bundled_pair as bundled_pair

_HOME = {
    "Alignment": "featviz.matching.alignment",
    "FeatvizError": "featviz.errors",
    "Group": "featviz.symmetry.groups",
    "LossBarrier": "featviz.merging.barrier",
    "PermutationGroups": "featviz.symmetry.groups",
    "RenderConfig": "featviz.config",
    "Renderings": "featviz.rendering.optimize.loop",
    "Subject": "featviz.subjects",
    "Triplets": "featviz.triplet",
    "UnitIndexer": "featviz.matching.indexer",
    "UnitMatch": "featviz.matching.indexer",
    "ManyAlignment": "featviz.matching.multi_network",
    "align_many": "featviz.matching.multi_network",
    "merge_many": "featviz.merging.multi_network",
    "align": "featviz.matching.alignment",
    "bundled_pair": "featviz.zoo.pair",
    "color_matrix": "featviz.rendering.image.color",
    "evaluate_ensemble": "featviz.merging.ensemble",
    "LayerConnectivity": "featviz.merging.connectivity",
    "layer_connectivity": "featviz.merging.connectivity",
    "plot_barriers": "featviz.gallery.plots",
    "plot_connectivity": "featviz.gallery.plots",
    "plot_variance": "featviz.gallery.plots",
    "evaluate": "featviz.merging.barrier",
    "load_alignment": "featviz.matching.alignment",
    "loss_barrier": "featviz.merging.barrier",
    "magnitude_profile": "featviz.rendering.image.spectrum",
    "merge": "featviz.merging.average",
    "merge_heads": "featviz.merging.heads",
    "permutation_groups": "featviz.symmetry.discovery",
    "read_permutations": "featviz.matching.exchange",
    "render": "featviz.rendering.render",
    "render_unit_triplet": "featviz.triplet",
    "write_permutations": "featviz.matching.exchange",
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
