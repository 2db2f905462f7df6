"""Find the permutation groups of any feed-forward network: run it once, solve for the groups, verify them.

network, example input -> `PermutationGroups`, exact or refused.
"""

import logging

import torch
from torch import Tensor, nn

from featviz.errors import ModelError, summary
from featviz.failures import machine_failed
from featviz.isolation import copy_of
from featviz.subjects import Subject, as_subject
from featviz.symmetry.groups import PermutationGroups
from featviz.symmetry.propagation import propagate
from featviz.symmetry.solve_groups import groups_of
from featviz.symmetry.trace import Trace
from featviz.symmetry.verification import cloned, in_float64, is_random, randomise_constants, verified
from featviz.weights.tensors import tensors_of

log = logging.getLogger("featviz.symmetry")


def permutation_groups(
    model: nn.Module | Subject, example_input: object, *, verify: bool = True, free_outputs: bool = False
) -> PermutationGroups:
    """Find every group of units that can be permuted without changing the network's function.

    A network of which no unit may be permuted is logged as a warning, with the reasons.

    Args:
        model: any feed-forward network that runs on `example_input`, or a `Subject` of one; it is left as it was.
        example_input: a batch (one example is enough and fastest), or a tuple of arguments.
        verify: try one random permutation in float64 with random norm statistics; a group that changes the output is
            left out and reported in `pinned`.
        free_outputs: the order of the output's channels does not matter, as where the network is the first part of
            another: its last layer may be permuted, and the output with it. Otherwise what is returned is pinned.

    Raises:
        ModelError: the network does not run on the example input, returns no tensor, or (with `verify`) computes
            something else each time it runs.
    """
    model = as_subject(model).model
    try:
        trial, inputs = private_copy(model, example_input, torch.float64 if verify else torch.float32)
        if verify:
            randomise_constants(trial, torch.Generator().manual_seed(0))
            trace, before = trace_in_float64(trial, inputs, free_outputs)
        else:
            trace, before = propagate(trial, inputs, free_outputs)
    except ModelError:
        raise
    except Exception as error:
        if machine_failed(error):
            raise
        run_example(*private_copy(model, example_input, torch.float32))
        if verify:
            raise ModelError(
                f"the network cannot be followed in float64 ({summary(error)}): verify=False follows it in float32, without a "
                "proof."
            ) from error
        raise
    found = groups_of(trace)
    if verify:
        if trace.random or not found.groups:
            _refuse_random(trial, inputs, trace)
        right = verified(trial, inputs, found, before)
        if len(right) < len(found):
            _refuse_random(trial, inputs, trace)
        found = right
    if not found.free_units:
        reasons = "; ".join(list(dict.fromkeys(pin.reason for pin in found.pinned))[:3])
        log.warning("no unit of this network may be permuted%s", f" ({reasons})" if reasons else "")
    return found


def run_example(network: nn.Module, inputs: tuple) -> object:
    """What a `private_copy` returns for its example.

    Raises:
        ModelError: the network fails on it.
    """
    try:
        with torch.no_grad():
            return network(*inputs)
    except Exception as error:
        if machine_failed(error):
            raise
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_of(inputs))
        raise ModelError(
            f"the network does not run on the example input of shape {shapes} ({summary(error)}): "
            "give an example_input of the shape that the network expects."
        ) from error


def trace_in_float64(trial: nn.Module, inputs: tuple, free_outputs: bool = False) -> tuple[Trace, list[Tensor]]:
    """The trace of a network of float64 weights, and its outputs, with which its proof compares.

    Args:
        trial: stays as it is; its constants are randomised, which no rule reads.
        inputs: the example's arguments in float64; they stay as they are.
    """

    def run(throughout: bool) -> tuple[Trace, list[Tensor]]:
        return propagate(copy_of(trial), cloned(inputs), free_outputs, throughout)

    return in_float64(run)


def _refuse_random(model: nn.Module, inputs: tuple, trace: Trace) -> None:
    """Raise ModelError where the network's output differs from run to run."""
    if is_random(model, inputs):
        operator, module = next(iter(trace.random.items()), ("", ""))
        where = f" ({operator} in {module or 'the network'})" if operator else ""
        raise ModelError(
            f"the network computes something else each time it runs{where}: "
            "turn its randomness off in eval mode, as by F.dropout(x, training=self.training)."
        )


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
