"""What a matching method is given: the networks, the groups of their interchangeable units, data and a seed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from featviz.data import Data
from featviz.subjects import Subject
from featviz.symmetry.groups import PermutationGroups

Progress = Callable[[int, int], None] | None  # called with (done, total); total 0 where it is not known


@dataclass(frozen=True)
class MatchingProblem:
    """Two or more networks whose units are to be matched.

    Args:
        method: the name by which the method was asked for, for messages.
        models: the networks, A first; in eval mode or not, and not to be changed.
        groups: `groups.groups[k].axes` says which coordinates of which parameters the units of a group own.
        data: batches `x` or `(x, label)`, images in [0, 1]. Never None for a method that needs data.
        seed: of everything random.
        progress: called with (done, total).
        subjects: the networks with their input normalization; empty: what the networks tell themselves.
        names_in_b: names of parameters and modules, A's -> B's, where they differ.
    """

    method: str
    models: tuple[nn.Module, ...]
    groups: PermutationGroups
    data: Data | None = None
    seed: int = 0
    progress: Progress = None
    subjects: tuple[Subject, ...] = ()
    names_in_b: Mapping[str, str] = field(default_factory=dict)

    @property
    def model_a(self) -> nn.Module:
        return self.models[0]

    @property
    def model_b(self) -> nn.Module:
        return self.models[1]
