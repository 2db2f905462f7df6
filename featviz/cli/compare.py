"""`featviz compare`: can these two networks be merged, and how?"""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from featviz.cli import arguments
from featviz.files import check_writable, write_atomically

DESCRIPTION = """\
Say on one screen what two networks share and in what they differ, whether they have a common base (then their units
correspond as they are), how alike their units are by each method beside what chance gives, which method fits, and, with
labelled --data, what their averages at weight 1/2 lose.
"""

EXAMPLES = """\
examples:
  featviz compare a.safetensors b.safetensors --arch resnet20-x2 --size 32
  featviz compare a.safetensors b.safetensors --arch resnet20-x2 --size 32 --data cifar/train --limit 2000 --json ab.json
  featviz compare torchvision:resnet50/IMAGENET1K_V1 torchvision:resnet50/IMAGENET1K_V2 --size 224
"""


def add(commands: Any) -> None:
    parser = arguments.add_command(commands, "compare", "can two networks be merged, and how", DESCRIPTION, EXAMPLES)
    arguments.add_pair(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON too")
    parser.add_argument("--seed", type=int, default=0, help="of the matching (default: %(default)s)")
    arguments.add_architecture(parser)
    arguments.add_input(parser, pair=True)
    arguments.add_data(parser, why="; one half for matching and repair, the other for accuracy, where there are labels")
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    if args.json is not None:
        check_writable(args.json)
    from featviz.cli import inputs
    from featviz.evidence.compare import compare

    model_a, model_b = inputs.networks(args)
    data = inputs.images(args, model_a, args.size)
    example = inputs.example_input(args, model_a, args.size)
    with inputs.stages() as progress:
        found = compare(model_a, model_b, example, data, args.seed, progress)
    print(found)
    if args.json is not None:
        text = json.dumps(found.record(), indent=1) + "\n"
        write_atomically(args.json, lambda part: part.write_text(text, encoding="utf-8"))
