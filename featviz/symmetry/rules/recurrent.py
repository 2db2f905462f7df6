"""The rules of nn.RNN, nn.GRU, nn.LSTM and their cells, as whole modules: their operators differ between machines.

LSTM(5, 8): weight_ih (32, 5) and weight_hh (32, 8) hold four gates of 8 rows each. Unit i owns row i of each gate in
both, and in both biases, and column i of weight_hh, which reads the unit at the step before. The input's ids are the
columns of weight_ih. The output (batch, steps, 8), the last state (1, batch, 8) and the last cell have the ids of the
units; with both directions, those of each.
"""

import torch
from torch import Tensor, nn

from featviz.symmetry.unit_tracer import UnitTracer, axes_of
from featviz.weights.tensors import tensors_of

GATES = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3}  # 1 for nn.RNN and nn.RNNCell
Recurrent = nn.RNNBase | nn.RNNCellBase


def recurrent(tracer: UnitTracer, module: Recurrent, args: tuple, output: object) -> None:
    """Set the ids of a recurrent module's outputs.

    Args:
        args: (input, or a PackedSequence) and, where they were given, the first state, or the first state and cell.
        output: (output, last state), (output, (last state, last cell)), or a cell's state, or its state and cell.
    """
    if isinstance(module, nn.RNNCellBase):
        _cell(tracer, module, args, tensors_of(output))
    else:
        _layers(tracer, module, args, tensors_of(output))


def _cell(tracer: UnitTracer, module: nn.RNNCellBase, args: tuple, last: list[Tensor]) -> None:
    state, _ = _direction(tracer, module, "", _last_axis(tracer, args[0]))
    first = tensors_of(args[1:])
    for number, tensor in enumerate(last):
        ids = state.view(*[1] * (tensor.dim() - 1), -1)
        tracer.set_ids(tensor, [ids])
        if number < len(first):
            _same_as_first(tracer, first[number], ids)


def _layers(tracer: UnitTracer, module: nn.RNNBase, args: tuple, outputs: list[Tensor]) -> None:
    """All layers and directions of a module; `outputs`: the output, the last state and the last cell."""
    read = _last_axis(tracer, tensors_of(args[0])[0])
    states: list[Tensor] = []
    cells: list[Tensor] = []
    directions = 2 if module.bidirectional else 1
    for layer in range(module.num_layers):
        for direction in range(directions):
            state, cell = _direction(tracer, module, f"_l{layer}" + ("_reverse" if direction else ""), read)
            states.append(state)
            cells.append(cell)
        read = [torch.cat(states[-directions:])]
    tracer.set_ids(outputs[0], [read[0].view(*[1] * (outputs[0].dim() - 1), -1)])
    first = tensors_of(args[1:])
    kept = [
        tensor for tensor in outputs[1:] if tensor.is_floating_point()
    ]  # a PackedSequence has lengths and orders, too
    for number, (last, own) in enumerate(zip(kept, (states, cells), strict=False)):
        ids = torch.stack(own).view(len(own), *[1] * (last.dim() - 2), -1)
        tracer.set_ids(last, [ids])
        if number < len(first):
            _same_as_first(tracer, first[number], ids)


def _direction(tracer: UnitTracer, module: Recurrent, suffix: str, read: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The flat ids of the state and of the cell of one direction of one layer.

    Args:
        suffix: what the names of its parameters end with, like "_l0_reverse".
        read: the flat ids of what it reads.
    """
    gates = next((number for kind, number in GATES.items() if isinstance(module, kind)), 1)
    into, again = getattr(module, f"weight_ih{suffix}"), getattr(module, f"weight_hh{suffix}")
    rows = [_axis_ids(tracer, weight, 0, weight.shape[0]) for weight in (into, again)]
    if module.bias:
        rows += [_axis_ids(tracer, getattr(module, f"bias_{kind}{suffix}"), 0, into.shape[0]) for kind in ("ih", "hh")]
    cell = rows[0].view(gates, -1)[0]
    for own in rows:
        tracer.same_unit(own.view(gates, -1), cell)
    tracer.same_units_or_pin(read, [_axis_ids(tracer, into, 1, into.shape[1])])
    state = cell
    if getattr(module, "proj_size", 0):
        project = getattr(module, f"weight_hr{suffix}")
        tracer.same_unit(_axis_ids(tracer, project, 1, project.shape[1]), cell)
        state = _axis_ids(tracer, project, 0, project.shape[0])
    tracer.same_unit(_axis_ids(tracer, again, 1, again.shape[1]), state)
    return state, cell


def _axis_ids(tracer: UnitTracer, weight: Tensor, axis: int, length: int) -> Tensor:
    """The flat ids of one axis of a weight; new ones, which are pinned, where it has none."""
    found = [ids.reshape(-1) for ids in tracer.ids_of(weight) if axes_of(ids) == {axis}]
    if found:
        return found[0]
    fixed = tracer.constant_ids(length)
    if length > 1:
        tracer.pin([fixed], f"meets a fixed tensor in {tracer.where}")
    return fixed


def _last_axis(tracer: UnitTracer, x: Tensor) -> list[Tensor]:
    """The flat ids of the input's channels; what varies over steps or images is pinned."""
    last, found = x.dim() - 1, []
    for ids in tracer.ids_of(x):
        if last in axes_of(ids):
            found.append(tracer.same_along(ids, sorted(axes_of(ids) - {last})).reshape(-1))
        else:
            tracer.pin([ids], f"varies over the steps of a sequence in {tracer.where}")
    return found


def _same_as_first(tracer: UnitTracer, first: Tensor, ids: Tensor) -> None:
    """A state that was given has the units of the last one; where it is fixed, so are they."""
    given = tracer.ids_of(first)
    if any(axes_of(one) - {0, first.dim() - 1} for one in given) or len(given) > 1:
        tracer.pin([*given, ids], f"a first state of other structure in {tracer.where}")
    elif given:
        tracer.same_unit(given[0], ids)
    elif not tracer.is_uniform(first, first.dim() - 1):
        tracer.pin([ids], f"meets a fixed tensor in {tracer.where}")
