"""`featviz info`: what can be permuted in a network, and which of its layers have units."""

import textwrap
from argparse import Namespace
from typing import Any

from featviz.cli import arguments

DESCRIPTION = """\
List the groups of interchangeable units of a network with the layers that each covers, the width of every layer,
and what may not move with the reason. The checkpoint may be left out: the architecture alone decides.
"""

EXAMPLES = """\
examples:
  featviz info a.safetensors --arch resnet20-x2 --size 32
  featviz info --arch densenet121 --size 224
  featviz info --arch mynets.small:make_net --arch-arg width=64 --size 28 --channels 1
"""


def add(commands: Any) -> None:
    parser = arguments.add_command(commands, "info", "groups, layers and units of a network", DESCRIPTION, EXAMPLES)
    parser.add_argument("a", type=arguments.checkpoint, nargs="?", metavar="A", help="checkpoint to check too")
    arguments.add_architecture(parser)
    arguments.add_input(parser)
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    from featviz.cli import inputs
    from featviz.symmetry.discovery import permutation_groups

    model = inputs.network(args, args.a)
    groups = permutation_groups(model, inputs.example_input(args, model, args.size))
    print(f"{len(groups)} groups of interchangeable units in {args.arch}, {groups.free_units} units in all")
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
        print(_wrapped(f"{reason}: {', '.join(axes[:4])}{more}"))
    for operator, module in groups.unknown.items():
        print(_wrapped(f"whatever {operator} in {module} touches: featviz has no rule for it"))


def _width(units: Any) -> str:
    """How many units a layer has, and how many of them may not move."""
    fixed = int((units.group < 0).sum())
    return f"{units.width}" + (f"({fixed} fixed)" if fixed else "")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 110, initial_indent="  ", subsequent_indent="    ", break_long_words=False)
