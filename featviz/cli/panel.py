"""`featviz panel`: the same units of any number of networks as pictures, side by side."""

import argparse
from argparse import Namespace
from pathlib import Path
from typing import Any

from featviz.cli import arguments, rendering
from featviz.errors import CheckpointError

DESCRIPTION = """\
Render units of any number of networks, a column for each, each row from one random start, into one PNG (and a JSON of
what was rendered) per layer. The networks are shown as they are: for two that were trained apart, featviz triplet shows
B in A's order.
"""

EXAMPLES = f"""\
examples:
  featviz panel base=base.pt tuned=tuned.pt edited=edited.pt --arch resnet18 --units layer4.1.bn2:0-7 --size 128
  featviz panel a.safetensors merged.safetensors --arch resnet20-x2 --units layer3.1.bn1:0-7 --size 64 --out pictures

{rendering.LOOK}"""


def add(commands: Any) -> None:
    parser = arguments.add_command(commands, "panel", "render units of any number of networks", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "subjects", nargs="+", type=_subject, metavar="[NAME=]CHECKPOINT",
        help="a network and the name of its column (default: the file's name)",
    )  # fmt: skip
    rendering.add_pictures(parser)
    arguments.add_architecture(parser)
    rendering.add_rendering(parser)
    parser.set_defaults(run=run)


def _subject(text: str) -> tuple[str, str | Path]:
    """`name=file`, or a file whose name is taken."""
    name, equals, path = text.partition("=")
    if equals and not name:
        raise argparse.ArgumentTypeError(f"{text!r} has no name before '=', write name=checkpoint")
    if not equals or Path(text).exists():
        found = arguments.weights(text)
        return (found.stem if isinstance(found, Path) else text.partition(":")[2]), found
    return name, arguments.weights(path)


def run(args: Namespace) -> None:
    config = rendering.render_config(args)
    asked = rendering.units_by_layer(args.units)
    names = [name for name, _ in args.subjects]
    for name in names:
        if names.count(name) > 1:
            raise CheckpointError(f"two networks are called {name!r}: write other names, as in x=FILE y=FILE.")
    rendering.check_pictures(args.out, asked)
    from featviz.cli import inputs
    from featviz.panel_rendering import render_panel

    subjects = {name: inputs.network(args, path) for name, path in args.subjects}
    inputs.check_bands(args, next(iter(subjects.values())), config)
    for layer, units in asked.items():
        inputs.check_units(subjects, layer, units, config)
    with rendering.saving(args.bands) as save:
        for layer, units in asked.items():
            with inputs.bar(layer) as progress:
                panel = render_panel(subjects, layer, units, config=config, progress=progress)
            save(panel, rendering.picture(args.out, layer))
