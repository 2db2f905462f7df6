"""`featviz info`: what can be permuted in a network, and which of its layers have units."""

from argparse import Namespace
from pathlib import Path
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
    parser.add_argument("a", type=Path, nargs="?", metavar="A", help="checkpoint to check against the architecture")
    arguments.add_architecture(parser)
    arguments.add_input(parser)
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    import featviz
    from featviz.cli import inputs

    model = inputs.network(args, args.a)
    groups = featviz.permutation_groups(model, inputs.example_input(args, model, args.size))
    print(f"{len(groups)} groups of interchangeable units in {args.arch}")
    for group in groups:
        print(f"  {group.name}: {group.size} units, seen at {', '.join(groups.modules(group.name))}")
    print(f"{len(groups.layers)} layers with units")
    for name, units in groups.layers.items():
        fixed = int((units.group < 0).sum())
        print(f"  {name}: {units.width}" + (f", {fixed} of them fixed" if fixed else ""))
    print("fixed, because a permutation would change the function")
    for pin in groups.pinned:
        print(f"  {pin.parameter}, axis {pin.axis}: {pin.count} ({pin.reason})")
    for operator, module in groups.unknown.items():
        print(f"  what {operator} in {module} touches: it has no rule")
