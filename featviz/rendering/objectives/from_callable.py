"""Objectives of lucid and lucent as they are: a function of T(layer) that gives one loss."""

from collections.abc import Callable

from torch import Tensor

from featviz.errors import RenderError
from featviz.rendering.objectives.base import Activations, Objective, at_least_float32


class CallableObjective(Objective):
    """See `from_callable`."""

    layers = None
    coupled = True

    def __init__(self, loss: Callable[[Activations], Tensor]) -> None:
        self.loss = loss

    def score(self, T: Activations) -> Tensor:
        loss = self.loss(T)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise RenderError(
                f"the objective gave {shape}: a lucid-style callable on T(layer) gives one loss to minimize."
            )
        return -at_least_float32(loss).reshape(1).expand(T("input").shape[0])


def from_callable(loss: Callable[[Activations], Tensor]) -> Objective:
    """A lucid or lucent objective: a callable on `T(layer) -> activation` that gives one loss, to be *minimized*.

    lucent's own `Objective` objects and plain functions both serve. Names of layers may be written as lucent does
    (`layer4_1_conv2`). Which layers it asks for is found by running it once. Every image of the batch gets the score -loss,
    since the callable does not tell them apart; all images are rendered in one batch.

    Raises:
        RenderError: (when rendered) the callable gives no tensor with one entry.
    """
    return CallableObjective(loss)


def as_objective(what: Objective | Callable[[Activations], Tensor]) -> Objective:
    """An objective as it is, a callable by `from_callable`.

    Raises:
        RenderError: neither.
    """
    if isinstance(what, Objective):
        return what
    if callable(what):
        return from_callable(what)
    raise RenderError(f"{what!r} is no objective: give 'layer:channel', an Objective or a callable.")
