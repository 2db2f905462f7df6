"""How to write the rule of an operator, and the table of rules.

A rule is a function `(tracer, call) -> None`. It says what a torch operator does with units: which units of its inputs
are the same unit, which units its output has, and which may no longer be permuted. Featviz runs the operator first; the
rule then looks at

    call["dim"]             the argument of that name (its default where it was not given)
    call.out                what the operator returned

and talks to the tracer, which keeps the *id tensors* of every tensor: integers, shaped like the tensor, of size 1 along
the axes on which they do not vary. A map (1, 4, 8, 8) has one id tensor (1, 4, 1, 1), the ids of its four channels.

    tracer.ids_of(x)             the id tensors of x: one for each independent way to permute it
    tracer.set_ids(out, ids)     those of the output
    tracer.same_unit(i, j)       elementwise, both ids are one unit: they must be permuted alike
    tracer.same_along(i, axes)   units at different indices of these axes must be permuted alike; returns those at index 0
    tracer.block_ids(i, axes)    units may be exchanged within one index of these axes only, as what is summed over whole
    tracer.pin(ids, reason)      these units may not be permuted
    axes_of(i)                   the axes on which an id tensor varies

Worked example, GLU: x (1, 6) has ids [[1 2 3 4 5 6]] and becomes x[:, :3] * sigmoid(x[:, 3:]). Unit 1 is gated by 4, so
both must be permuted alike, and so must 2 and 5, 3 and 6; the output (1, 3) has ids [[1 2 3]]. `glu` in `elementwise.py`
says so in seven lines.

A rule must account for every id tensor of every input: pass it on, say what it is the same as, or pin it. A wrong rule
is found by the proof (`permutation_groups(..., verify=True)`), which leaves out every group that changes the network's
output.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket

from featviz.errors import ModelError
from featviz.symmetry.unit_tracer import UnitTracer
from featviz.weights.tensors import tensors_of

log = logging.getLogger("featviz.symmetry")


class Call:
    """One run of an operator: its arguments by name, and what it returned.

    Attributes:
        operator: the ATen overload, like `torch.ops.aten.glu.default`.
        args, kwargs: its arguments as given.
        inputs: all tensors among the arguments.
        out: the operator's result.
    """

    def __init__(self, operator: OpOverload, args: tuple, kwargs: dict[str, Any], out: Any = None) -> None:
        self.operator, self.args, self.kwargs, self.out = operator, args, kwargs, out
        self.inputs: list[Tensor] = tensors_of((args, kwargs))

    def __getitem__(self, name: str) -> Any:
        """The argument of that name, or its default; KeyError where the operator has none."""
        names, defaults, _ = _schema(self.operator)
        if name in self.kwargs:
            return self.kwargs[name]
        at = names.get(name, len(self.args))
        return self.args[at] if at < len(self.args) else defaults[name]

    def get(self, name: str) -> Any:
        """The argument of that name; None where the operator has none."""
        try:
            return self[name]
        except KeyError:
            return None

    @property
    def outputs(self) -> list[Tensor]:
        """All tensors in the result."""
        return tensors_of(self.out)

    @property
    def written(self) -> list[Tensor]:
        """The arguments that the operator writes in place."""
        at = _schema(self.operator)[2]
        return [value for place, value in enumerate(self.args) if place in at and isinstance(value, Tensor)]


Rule = Callable[[UnitTracer, Call], None]
RULES: dict[OpOverloadPacket, Rule] = {}
KINDS: list[tuple[Callable[[OpOverload], bool], Rule]] = []


def rule(*operators: OpOverloadPacket) -> Callable[[Rule], Rule]:
    """Decorator: the rule of these ATen operators, all overloads of each."""

    def keep(function: Rule) -> Rule:
        for operator in operators:
            register(operator, function)
        return function

    return keep


def rule_of_kind(is_kind: Callable[[OpOverload], bool]) -> Callable[[Rule], Rule]:
    """Decorator: the rule of all operators that `is_kind` holds for and that have no rule of their own."""

    def keep(function: Rule) -> Rule:
        KINDS.append((is_kind, function))
        return function

    return keep


def register(operator: OpOverloadPacket | OpOverload | str, function: Rule) -> None:
    """Give an operator of your own (`torch.library.custom_op`, a C++ extension) a rule, or replace that of an ATen
    operator.

    Ready rules, for operators that act like others: `elementwise`, `data_movement`, `per_channel`, `reduction`,
    in `featviz.symmetry.rules`. Example, for a fused activation:

        from featviz.symmetry.rules import elementwise, register

        register("mylib::bias_gelu", elementwise)

    Args:
        operator: `torch.ops.mylib.bias_gelu` (or one overload of it: the rule holds for all), or its name
        "mylib::bias_gelu". function: (tracer, call) -> None; see the head of `featviz/symmetry/rules/registry.py`.

    Raises:
        ModelError: the name is not that of a loaded operator.
    """
    packet = _packet(operator)
    if packet in RULES and RULES[packet] is not function:
        log.info("the rule of %s is replaced", packet)
    RULES[packet] = function
    rule_of.cache_clear()


@functools.cache
def rule_of(operator: OpOverload) -> Rule | None:
    """The rule of an operator: its own, or that of its kind; None where there is none."""
    own = RULES.get(operator.overloadpacket)
    return own or next((function for is_kind, function in KINDS if is_kind(operator)), None)


def _packet(operator: object) -> OpOverloadPacket:
    import torch

    if isinstance(operator, str):
        namespace, _, name = operator.partition("::")
        found = getattr(getattr(torch.ops, namespace), name, None) if name else None
        if found is None:
            raise ModelError(
                f"there is no operator {operator!r}: give the name of a loaded one, like 'mylib::bias_gelu'."
            )
        return found
    operator = getattr(operator, "_opoverload", operator)  # of torch.library.custom_op
    return getattr(operator, "overloadpacket", operator)  # pyright: ignore[reportReturnType]


@functools.cache
def _schema(operator: OpOverload) -> tuple[dict[str, int], dict[str, Any], frozenset[int]]:
    """Of an operator's arguments: position by name, default by name, and the positions that it writes."""
    arguments = operator._schema.arguments
    names = {argument.name: at for at, argument in enumerate(arguments)}
    defaults = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    written = frozenset(at for at, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write)
    return names, defaults, written
