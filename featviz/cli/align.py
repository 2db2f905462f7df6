"""`featviz align`: two checkpoints -> the permutation that brings B into A's order, or how their units combine."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from featviz.cli import arguments
from featviz.config import METHODS, METHODS_ON_DATA, MIXINGS, AlignConfig
from featviz.errors import AlignmentError, DataError
from featviz.files import check_writable

DESCRIPTION = """\
Find which unit of B corresponds to which unit of A, for every layer, and write it to a file.
Method "weights" compares the networks' weights and needs no data (given some, it starts from
their activations as well); "activations" compares what units answer to
images and needs --data (a few thousand images suffice; labels are not used), "inner" does so by
inner product instead of correlation; "sinkhorn" goes on from "weights" with soft permutations;
"identity" and "random" are the controls that a matching has to beat.
"zipit", "cca" and "ot" need --data too; they find no permutation but linear combinations of units that featviz merge
and featviz triplet take as well: clusters of units of both networks (ZipIt), canonical directions (CCA Merge), or a
soft assignment (optimal transport).
"""

EXAMPLES = """\
examples:
  featviz align a.safetensors b.safetensors --arch resnet20-x2 --size 32 --out ab.safetensors
  featviz align a.pth b.pth --arch resnet18 --arch-arg num_classes=10 --size 224 \\
      --method activations --data imagenette/train --limit 2000 --out ab.safetensors
  featviz align a.pt b.pt --arch mynets.small:make_net --size 28 --channels 1 --out ab.safetensors
"""


def add(commands: Any) -> None:
    defaults = arguments.DEFAULTS.align
    parser = arguments.add_command(commands, "align", "find which unit of B is which unit of A", DESCRIPTION, EXAMPLES)
    arguments.add_pair(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="alignment to write (.safetensors), or permutations for other tools (.json)",
    )
    parser.add_argument(
        "--method", choices=METHODS, default=defaults.method,
        help="what is compared (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of the starts (default: %(default)s)")
    parser.add_argument(
        "--restarts", type=arguments.positive, default=defaults.restarts, metavar="N",
        help="starts of weight matching, the best is kept (default: %(default)s)",
    )  # fmt: skip
    for name, text in (
        ("alpha", "zipit: what a merge leaves of a cluster's similarity, 0 to 1"),
        ("beta", "zipit: share of the merges that may lie within one network, 0 to 1"),
        ("gamma", "cca: regularisation, relative to the mean eigenvalue"),
        ("entropy", "ot: how soft the assignment is; 0 is a permutation"),
    ):
        default = getattr(defaults, name)
        parser.add_argument(f"--{name}", type=float, default=default, metavar="X", help=f"{text} (default: {default})")
    arguments.add_architecture(parser)
    arguments.add_input(parser)
    arguments.add_data(parser, why="; for methods that compare answers, and one more start of weights")
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    if args.method in METHODS_ON_DATA and args.data is None:
        raise DataError(f"--method {args.method} compares answers to images: give --data FOLDER.")
    exchanged = args.out.suffix == ".json"
    if exchanged and args.method in MIXINGS:
        raise AlignmentError(f"--method {args.method} has no permutations for {args.out}: give a .safetensors file.")
    options = AlignConfig(alpha=args.alpha, beta=args.beta, gamma=args.gamma, entropy=args.entropy)
    check_writable(args.out)
    from featviz.cli import inputs
    from featviz.matching.alignment import align
    from featviz.matching.exchange import write_permutations

    model_a, model_b = inputs.pair(args)
    data = None if args.data is None else inputs.images(args, model_a, args.size)
    with inputs.bar("aligning") as progress:
        alignment = align(
            model_a, model_b, inputs.example_input(args, model_a, args.size), method=args.method, data=data,
            seed=args.seed, restarts=args.restarts, progress=progress, options=options,
        )  # fmt: skip
    if exchanged:
        write_permutations(alignment, model_b, args.out)
    else:
        alignment.save(args.out)
    print(f"{args.out}: {len(alignment.groups)} groups of units in {len(alignment.indexer.layers)} layers")
    if alignment.mixing is not None:
        print(f"{'group':32} {'units':>6} {'parts agree':>12}")
        for group in alignment.groups:
            print(f"{group.name:32} {group.size:6d} {alignment.scores[group.name].mean():12.3f}")
        return
    print("objective of each start: " + ", ".join(f"{value:.3f}" for value in alignment.matching.objectives))
    print(f"{'group':32} {'units':>6} {'mean score':>11} {'mean margin':>12}")
    for group in alignment.groups:
        score, margin = alignment.scores[group.name].mean(), alignment.margins[group.name].mean()
        print(f"{group.name:32} {group.size:6d} {score:11.3f} {margin:+12.3f}")
