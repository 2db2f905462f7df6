"""What an alignment reaches by the two objectives of weight matching, whichever method found it."""

from dataclasses import dataclass

from torch import nn

from featviz.matching.alignment import Alignment
from featviz.matching.permutation.compared_weights import ComparedWeights
from featviz.matching.shared_parts import groups_for_matching
from featviz.subjects import Subject, as_subject


@dataclass(frozen=True)
class WeightObjectives:
    """Sums over the parameters that units own of <A, B'>.

    Attributes:
        plain: of the weights as they are (Ainsworth et al. 2022, equation 1).
        scale_free: of filters at unit norm and vectors at one root mean square, in every layer.
    """

    plain: float
    scale_free: float


def weight_objectives(
    model_a: nn.Module | Subject, model_b: nn.Module | Subject, alignment: Alignment
) -> WeightObjectives:
    """Both objectives of an alignment's permutations. Weight matching itself maximises the plain one where no batch norm
    follows a filter, and the scale-free one where a batch norm makes the filter's scale arbitrary.

    Args:
        model_a, model_b: the networks of the alignment.

    Raises:
        AlignmentError: the alignment belongs to other networks, or has no permutations.
    """
    alignment.check(model_a, model_b)
    a, b = as_subject(model_a).model, as_subject(model_b).model
    groups = alignment.groups if alignment.parts is None else groups_for_matching(alignment.parts)
    plain, free = (
        ComparedWeights(a, b, groups, alignment.shared_parameters, scale_free).objective(alignment.permutations)
        for scale_free in (False, True)
    )
    return WeightObjectives(plain, free)
