"""`featviz info`: what can be permuted in a network, and which of its layers have units."""

import textwrap
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from featviz.cli import arguments

if TYPE_CHECKING:
    from torch import nn

DESCRIPTION = """\
List the groups of interchangeable units of a network with the layers that each covers, the width of every layer,
and what may not move with the reason. The checkpoint may be left out: the architecture alone decides.
With --data: which normalization of the input fits the network. A hundred images suffice.
"""

EXAMPLES = """\
examples:
  featviz info a.safetensors --arch resnet20-x2 --size 32
  featviz info --arch densenet121 --size 224
  featviz info torchvision:resnet50/IMAGENET1K_V1 --size 224 --data imagenet/val --limit 100
  featviz info --arch mynets.small:make_net --arch-arg width=64 --size 28 --channels 1
"""


def add(commands: Any) -> None:
    parser = arguments.add_command(commands, "info", "groups, layers and units of a network", DESCRIPTION, EXAMPLES)
    parser.add_argument("a", type=arguments.weights, nargs="?", metavar="A", help="checkpoint to check too")
    arguments.add_architecture(parser)
    arguments.add_input(parser)
    arguments.add_data(parser, why="; for the check of the normalization")
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    from featviz.cli import inputs
    from featviz.symmetry.discovery import permutation_groups
    from featviz.symmetry.trace import OUTPUT

    model = inputs.network(args, args.a)
    normalizations = None if args.data is None else _check_normalization(args, model)
    groups = permutation_groups(model, inputs.example_input(args, model, args.size))
    name = args.arch or args.a
    print(f"{len(groups)} groups of interchangeable units in {name}, {groups.free_units} units in all")
    for group in groups:
        layers = groups.modules(group.name)
        if group.name == group.family:
            members = [other.name for other in groups if other.family == group.family and other is not group]
            print(_wrapped(f"{group.name}: {group.size} blocks, exchanged as a whole in {', '.join(members)}"))
            continue
        blocks = f" in {group.blocks} blocks" if group.blocks > 1 else ""
        print(_wrapped(f"{group.name}: {group.size} units{blocks}, seen at {', '.join(layers) or 'no module'}"))
    print(f"{len(groups.layers)} layers with their units")
    print(_wrapped(" ".join(f"{name}={_width(units)}" for name, units in groups.layers.items())))
    print("fixed, because a permutation would change the function")
    for reason in dict.fromkeys(pin.reason for pin in groups.pinned):
        axes = [f"{pin.parameter} axis {pin.axis}" for pin in groups.pinned if pin.reason == reason]
        more = f" and {len(axes) - 4} more" if len(axes) > 4 else ""
        free = " (never matched; align --free-outputs frees it)" if reason == OUTPUT else ""
        print(_wrapped(f"{reason}{free}: {', '.join(axes[:4])}{more}"))
    for operator, module in groups.unknown.items():
        print(_wrapped(f"whatever {operator} in {module} touches: featviz has no rule for it"))
    for line in normalizations or ():
        print(line)


def _check_normalization(args: Namespace, model: "nn.Module") -> list[str]:
    """A table of what the network says of each normalization of its input, and which fits best."""
    from featviz.cli import inputs
    from featviz.evidence.normalization_check import best_normalization, check_normalization

    data = inputs.images(args, model, args.size)
    assert data is not None
    checks = check_normalization(model, data)
    used = next(iter(checks.values()))
    lines = [f"normalization of the input, on {used.images} images"]
    lines.append(f"  {'':12} {'mean':>19} {'std':>19} {'confidence':>10} {'right':>7} {'BatchNorm':>9}")
    for name, check in checks.items():
        mean, std = (
            " ".join(f"{value:.3f}" for value in values)
            for values in (check.normalization.mean, check.normalization.std)
        )
        right = "" if check.accuracy is None else f"{check.accuracy:.1f} %"
        lines.append(
            f"  {name:12} {mean:>19} {std:>19} {_number(check.confidence):>10} {right:>7} {_number(check.distance):>9}"
        )
    lines.append(_wrapped(f"in use: {used.normalization.source}"))
    best = best_normalization(checks)
    if best is None:
        lines.append(_wrapped("nothing tells them apart: the network has no BatchNorm and no outputs of classes"))
    elif best == next(iter(checks)):
        lines.append(_wrapped("none of the others fits the network better"))
    else:
        other = checks[best].normalization
        given = (",".join(f"{value:.4g}" for value in values) for values in (other.mean, other.std))
        lines.append(_wrapped("{} fits the network better: --mean {} --std {}".format(best, *given)))
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _width(units: Any) -> str:
    """How many units a layer has, and how many of them may not move."""
    fixed = int((units.group < 0).sum())
    return f"{units.width}" + (f"({fixed} fixed)" if fixed else "")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 110, initial_indent="  ", subsequent_indent="    ", break_long_words=False)
