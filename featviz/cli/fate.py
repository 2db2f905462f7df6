"""`featviz fate`: what became of each unit of the parents in their merge, on images."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from featviz.cli import arguments
from featviz.config import REPAIRS, FateConfig
from featviz.errors import OutputError
from featviz.files import check_writable

KINDS = ("verdicts", "units", "predicted")

DESCRIPTION = """\
Measure on images, for every unit of the asked layers, how far the parents agree (c), how well averaging the weights
averaged the feature (f), and whether the merged unit is closest to its own row of the layer in A, in B' and in their
mean; beside controls (units that are not matched, the unaligned average, a random alignment). Each unit gets a verdict:
kept, blended, A's, B's, lost, dead, or undecided where drawing the images again changes it.
"""

EXAMPLES = """\
examples:
  featviz fate a.safetensors b.safetensors --arch resnet20-x2 --size 32 --alignment ab.safetensors \\
      --merged merged.safetensors --data cifar/test --out fates.json --plots out
  featviz fate a.safetensors b.safetensors --arch resnet20-x2 --size 32 --alignment ab.safetensors \\
      --layers "layer3.*" --layers layer1.0.bn1 --data cifar/test --limit 2000 --out fates.csv
"""


def add(commands: Any) -> None:
    parser = arguments.add_command(commands, "fate", "what became of each unit in the merge", DESCRIPTION, EXAMPLES)
    arguments.add_pair(parser, aligned=True)
    parser.add_argument(
        "--merged", type=arguments.weights, metavar="FILE",
        help="checkpoint of the merged network (default: the average of A and B', repaired on --data)",
    )  # fmt: skip
    parser.add_argument(
        "--layers", action="append", metavar="PATTERN",
        help="layer3.1.bn1 or 'layer3.*'; may be repeated (default: all norms, or all layers with weights)",
    )  # fmt: skip
    parser.add_argument(
        "--repair", choices=REPAIRS, default="auto",
        help="of the controls, and of the merge where it is not given (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--no-controls", action="store_true", help="measure no unaligned average and no random alignment"
    )
    parser.add_argument(
        "--exemplars", type=arguments.positive, metavar="K", help="write each unit's K best images to the JSON too"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=FateConfig.seed,
        help="of the resampling and of the random alignment (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every unit to a .json or .csv")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help=f"draw {', '.join(KINDS)} as .png")
    arguments.add_architecture(parser)
    arguments.add_input(parser, pair=True)
    arguments.add_data(parser, required=True)
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    if args.out is not None:
        if args.out.suffix not in (".json", ".csv"):
            raise OutputError(f"{args.out} is no kind of table: end its name in .json or .csv.")
        check_writable(args.out)
    plots = {} if args.plots is None else {kind: args.plots / f"{kind}.png" for kind in KINDS}
    from featviz.gallery.plots import check_plottable

    for path in plots.values():
        check_plottable(path)
    from featviz.cli import inputs
    from featviz.evidence.fates.fate import fate
    from featviz.merging.merge import merge

    model_a, model_b = inputs.networks(args)
    alignment = inputs.alignment(args, model_a, model_b, args.size)
    data = inputs.images(args, model_a, args.size)
    if args.merged is None:
        inputs.say(f"no --merged: averaging A and B', repair {args.repair}.")
        with inputs.bar("merging") as progress:
            merged = merge(
                model_a, model_b, alignment, repair=args.repair, data=data, progress=progress, head=alignment.head
            )
    else:
        merged = inputs.network(args, args.merged)
    assert data is not None
    with inputs.bar("measuring") as progress:
        fates = fate(
            model_a, model_b, alignment, merged, args.layers, data=data, controls=not args.no_controls,
            repair=args.repair, exemplars=args.exemplars or 0, config=FateConfig(seed=args.seed), progress=progress,
        )  # fmt: skip
    print(fates)
    if args.out is not None:
        fates.save(args.out)
    for kind, path in plots.items():
        fates.plot(path, kind)
