"""Find the permutation groups of any feed-forward network: run it once, solve for the groups, verify them.

network, example input -> `PermutationGroups`, exact or refused.
"""

import torch
from torch import Tensor, nn

from featviz.errors import ModelError
from featviz.isolation import copy_of
from featviz.symmetry.groups import PermutationGroups
from featviz.symmetry.propagation import propagate
from featviz.symmetry.solve_groups import groups_of
from featviz.symmetry.verification import verified
from featviz.tensors import tensors_of


def permutation_groups(model: nn.Module, example_input: object, *, verify: bool = True) -> PermutationGroups:
    """Find every group of units that can be permuted without changing the network's function.

    Args:
        model: any feed-forward network that runs on `example_input`; it is left as it was.
        example_input: a batch (one example is enough and fastest), or a tuple of arguments.
        verify: try one random permutation in float64 with random norm statistics; a group that changes the output is
            left out and reported in `pinned`.

    Raises:
        ModelError: the network does not run on the example input, or returns no tensor.
    """
    try:
        trace = propagate(*private_copy(model, example_input, torch.float32))
    except ModelError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_of(example_input))
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"the network does not run on the example input of shape {shapes} ({reason}): "
            "give an example_input of the shape that the network expects."
        ) from error
    found = groups_of(trace)
    return verified(*private_copy(model, example_input, torch.float64), found) if verify else found


def private_copy(model: nn.Module, example_input: object, dtype: torch.dtype) -> tuple[nn.Module, tuple]:
    """A copy of the network on the CPU in eval mode, and the arguments for it, with all floats in `dtype`."""

    def moved(value: object) -> object:
        if isinstance(value, Tensor):
            return value.detach().to("cpu", dtype if value.is_floating_point() else None)
        return tuple(moved(item) for item in value) if isinstance(value, tuple) else value

    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    made = copy_of(model).eval()
    buffers = [(own, key, id(b)) for own in (m._buffers for m in made.modules()) for key, b in own.items()]
    made.to("cpu", dtype)
    converted: dict[int, Tensor | None] = {}
    for own, key, number in buffers:  # torch converts a buffer that modules share once for each of them
        own[key] = converted.setdefault(number, own[key])
    return made, tuple(moved(value) for value in inputs)
