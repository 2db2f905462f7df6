"""`featviz merge`: two checkpoints and their alignment -> one network."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from featviz.cli import arguments
from featviz.config import HEADS, REPAIRS
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
    arguments.add_pair(parser, aligned=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="network to write (.safetensors)")
    parser.add_argument(
        "--weight", type=float, default=defaults.weight, metavar="W",
        help="of B; 0 is A, 1 is B', below 0 and above 1 the line is extended (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--head", choices=HEADS, default=None,
        help="where A and B differ: whose own parts the network has; both: two files, FILE with -a and -b in its name",
    )  # fmt: skip
    parser.add_argument(
        "--repair", choices=REPAIRS, default=defaults.repair,
        help="how statistics are corrected (default: %(default)s)",
    )  # fmt: skip
    arguments.add_architecture(parser)
    arguments.add_input(parser, pair=True)
    arguments.add_data(parser, why="; for the repair")
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    if args.repair != "none" and args.data is None and args.weight not in (0, 1):
        raise DataError(f"--repair {args.repair} measures statistics on images: give --data FOLDER, or --repair none.")
    paths = [args.out]
    if args.head == "both":
        paths = [args.out.with_stem(f"{args.out.stem}-{head}") for head in ("a", "b")]
    for path in paths:
        check_writable(path)
    from featviz.cli import inputs
    from featviz.matching.alignment import PermutationAlignment
    from featviz.merging.merge import merge
    from featviz.merging.private_parts import TwoHeads
    from featviz.weights.checkpoints import save_weights

    model_a, model_b = inputs.networks(args)
    alignment = inputs.alignment(args, model_a, model_b, args.size)
    data = inputs.images(args, model_a, args.size)
    with inputs.bar("merging") as progress:
        merged = merge(
            model_a, model_b, alignment, weight=args.weight, repair=args.repair, data=data, progress=progress,
            head=args.head,
        )  # fmt: skip
    for path, network in zip(paths, merged if isinstance(merged, TwoHeads) else [merged], strict=True):
        save_weights(network, path)
    other = "B'" if isinstance(alignment, PermutationAlignment) else "B (" + alignment.method + ")"
    head = f", head {args.head}" if args.head else ""
    print(
        f"{', '.join(map(str, paths))}: {1 - args.weight:g} of A and {args.weight:g} of {other}{head}, repair {args.repair}"
    )
