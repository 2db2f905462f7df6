"""featviz: feature visualization for merged networks.

The public names are loaded when they are first used, so that `import featviz` and the command line's help need no torch.
"""

import ast
from importlib import import_module
from typing import TYPE_CHECKING, Any

# The one list of public names. Type checkers read it as it stands; at runtime `_modules` reads the same lines.
if TYPE_CHECKING:
    from featviz.atlases.page import page as page
    from featviz.atlases.ray_workers import RayWorkers as RayWorkers
    from featviz.atlases.run import atlas as atlas
    from featviz.atlases.store import AtlasStore as AtlasStore
    from featviz.config import AlignConfig as AlignConfig
    from featviz.config import FateConfig as FateConfig
    from featviz.config import MergeConfig as MergeConfig
    from featviz.config import RenderConfig as RenderConfig
    from featviz.config.matching_methods import matching_method as matching_method
    from featviz.config.matching_options import MethodOptions as MethodOptions
    from featviz.errors import FeatvizError as FeatvizError
    from featviz.evidence.compare import compare as compare
    from featviz.evidence.comparison import Comparison as Comparison
    from featviz.evidence.exemplars.exemplar_picture import exemplar_picture as exemplar_picture
    from featviz.evidence.exemplars.exemplars import Exemplar as Exemplar
    from featviz.evidence.exemplars.exemplars import Exemplars as Exemplars
    from featviz.evidence.exemplars.exemplars import exemplars as exemplars
    from featviz.evidence.fates.fate import fate as fate
    from featviz.evidence.fates.fate import fate_of_parents as fate_of_parents
    from featviz.evidence.fates.fates import Fates as Fates
    from featviz.evidence.fates.stored_fates import StoredFates as StoredFates
    from featviz.evidence.fates.stored_fates import read_fates as read_fates
    from featviz.evidence.natural_path import NaturalPath as NaturalPath
    from featviz.evidence.natural_path import natural_path as natural_path
    from featviz.evidence.nearest_units import NearestUnits as NearestUnits
    from featviz.evidence.nearest_units import nearest_units as nearest_units
    from featviz.evidence.pictures.accentuation import Accentuations as Accentuations
    from featviz.evidence.pictures.accentuation import accentuate as accentuate
    from featviz.evidence.pictures.caricature import Caricatures as Caricatures
    from featviz.evidence.pictures.caricature import caricature as caricature
    from featviz.evidence.pictures.path import UnitPath as UnitPath
    from featviz.evidence.pictures.path import render_unit_path as render_unit_path
    from featviz.evidence.pictures.variants import Variants as Variants
    from featviz.evidence.pictures.variants import render_variants as render_variants
    from featviz.evidence.transfer import Transfers as Transfers
    from featviz.evidence.transfer import picture_transfer as picture_transfer
    from featviz.evidence.unit_statistics import UnitStatistics as UnitStatistics
    from featviz.evidence.unit_statistics import unit_statistics as unit_statistics
    from featviz.gallery.plots import plot_barriers as plot_barriers
    from featviz.gallery.plots import plot_connectivity as plot_connectivity
    from featviz.gallery.plots import plot_variance as plot_variance
    from featviz.matching.align import align as align
    from featviz.matching.alignment import Alignment as Alignment
    from featviz.matching.alignment import LinearAlignment as LinearAlignment
    from featviz.matching.alignment import PermutationAlignment as PermutationAlignment
    from featviz.matching.alignment import load_alignment as load_alignment
    from featviz.matching.exchange.permutation_files import read_permutations as read_permutations
    from featviz.matching.exchange.permutation_files import write_permutations as write_permutations
    from featviz.matching.indexer import UnitIndexer as UnitIndexer
    from featviz.matching.indexer import UnitMatch as UnitMatch
    from featviz.matching.multi_network.align_many import align_many as align_many
    from featviz.matching.multi_network.alignment import ManyAlignment as ManyAlignment
    from featviz.matching.problem import MatchingProblem as MatchingProblem
    from featviz.matching.weight_objectives import WeightObjectives as WeightObjectives
    from featviz.matching.weight_objectives import weight_objectives as weight_objectives
    from featviz.merging.barrier import LossBarrier as LossBarrier
    from featviz.merging.barrier import evaluate as evaluate
    from featviz.merging.barrier import loss_barrier as loss_barrier
    from featviz.merging.connectivity import LayerConnectivity as LayerConnectivity
    from featviz.merging.connectivity import layer_connectivity as layer_connectivity
    from featviz.merging.ensemble import evaluate_ensemble as evaluate_ensemble
    from featviz.merging.heads import merge_heads as merge_heads
    from featviz.merging.merge import merge as merge
    from featviz.merging.multi_network import merge_many as merge_many
    from featviz.merging.task_arithmetic import task_arithmetic as task_arithmetic
    from featviz.networks.pretrained import load as load
    from featviz.panel import Panel as Panel
    from featviz.panel_rendering import render_panel as render_panel
    from featviz.rendering.image.color import color_matrix as color_matrix
    from featviz.rendering.image.parameterizations import Parameterization as Parameterization
    from featviz.rendering.image.parameterizations import register_parameterization as register_parameterization
    from featviz.rendering.image.spectrum import magnitude_profile as magnitude_profile
    from featviz.rendering.objectives import Objective as Objective
    from featviz.rendering.objectives import channel as channel
    from featviz.rendering.objectives import deepdream as deepdream
    from featviz.rendering.objectives import direction as direction
    from featviz.rendering.objectives import diversity as diversity
    from featviz.rendering.objectives import from_callable as from_callable
    from featviz.rendering.objectives import logit as logit
    from featviz.rendering.objectives import neuron as neuron
    from featviz.rendering.optimize.renderings import Renderings as Renderings
    from featviz.rendering.render import render as render
    from featviz.subjects import Subject as Subject
    from featviz.symmetry.discovery import permutation_groups as permutation_groups
    from featviz.symmetry.groups import Group as Group
    from featviz.symmetry.groups import PermutationGroups as PermutationGroups
    from featviz.symmetry.rules.registry import rule as rule
    from featviz.symmetry.unit_tracer import axes_of as axes_of
    from featviz.triplet import Triplets as Triplets
    from featviz.triplet import render_unit_triplet as render_unit_triplet
    from featviz.version import __version__ as __version__
    from featviz.weights.checkpoints import load_into as load_into
    from featviz.weights.checkpoints import save_weights as save_weights
    from featviz.zoo.pair import bundled_pair as bundled_pair


def _modules() -> dict[str, str]:
    """Public name -> module, from the imports above, which are only for type checkers."""
    spec = globals()["__spec__"]
    imports = ast.walk(ast.parse(spec.loader.get_source(spec.name)))
    return {
        alias.name: node.module
        for node in imports
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("featviz.")
        for alias in node.names
    }


_MODULES = _modules()
__all__ = sorted(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'featviz' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
