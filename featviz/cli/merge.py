"""`featviz merge`: two checkpoints and their alignment -> one network."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from featviz.cli import arguments
from featviz.config import REPAIRS
from featviz.errors import DataError
from featviz.files import check_writable

DESCRIPTION = """\
Permute B into A's order, average it with A, and repair the statistics of the average with --data:
BatchNorm statistics are measured anew ("batchnorm"); a network without BatchNorm is corrected so that its units
have the mean and spread that the parents' units had ("repair"), or the spread alone ("rescale"). "auto" chooses
"batchnorm" or "repair".
"""

EXAMPLES = """\
examples:
  featviz merge a.safetensors b.safetensors --arch resnet20-x2 --size 32 --alignment ab.safetensors \\
      --data cifar/train --out merged.safetensors
  featviz merge a.safetensors b.safetensors --arch resnet20-x2 --size 32 --alignment ab.safetensors \\
      --weight 0.25 --repair none --out quarter.safetensors       # three quarters of A; needs no data
"""


def add(commands: Any) -> None:
    defaults = arguments.DEFAULTS.merge
    parser = arguments.add_command(
        commands, "merge", "average A with the permuted B, and repair it", DESCRIPTION, EXAMPLES
    )
    arguments.add_pair(parser)
    parser.add_argument("--alignment", type=Path, required=True, metavar="FILE", help="made by featviz align")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="network to write (.safetensors)")
    parser.add_argument(
        "--weight",
        type=float,
        default=defaults.weight,
        metavar="W",
        help="of B; 0 is A, 1 is B' (default: %(default)s)",
    )
    parser.add_argument(
        "--repair", choices=REPAIRS, default=defaults.repair,
        help="how statistics are corrected (default: %(default)s)",
    )  # fmt: skip
    arguments.add_architecture(parser)
    arguments.add_input(parser, pair=True)
    arguments.add_data(parser, why="; for the repair")
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    if args.repair != "none" and args.data is None and 0 < args.weight < 1:
        raise DataError(f"--repair {args.repair} measures statistics on images: give --data FOLDER, or --repair none.")
    check_writable(args.out)
    from featviz.cli import inputs
    from featviz.matching.alignment import PermutationAlignment
    from featviz.merging.merge import merge
    from featviz.weights.checkpoints import save_weights

    model_a, model_b = inputs.pair(args)
    alignment = inputs.alignment(args, model_a, model_b, args.size)
    data = inputs.images(args, model_a, args.size)
    with inputs.bar("merging") as progress:
        merged = merge(
            model_a, model_b, alignment, weight=args.weight, repair=args.repair, data=data, progress=progress
        )
    save_weights(merged, args.out)
    other = "B'" if isinstance(alignment, PermutationAlignment) else "B (" + alignment.method + ")"
    print(f"{args.out}: {1 - args.weight:g} of A and {args.weight:g} of {other}, repair {args.repair}")
