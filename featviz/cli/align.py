"""`featviz align`: two checkpoints -> the permutation that brings B into A's order, or how their units combine."""

import math
from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from typing import Any

from featviz.cli import arguments
from featviz.config import AlignConfig
from featviz.config.matching_methods import LINEAR, method_named, methods, option_arguments
from featviz.config.matching_options import MethodOptions
from featviz.errors import AlignmentError, DataError
from featviz.files import check_writable

DESCRIPTION = """\
Find which unit of B corresponds to which unit of A, for every layer, and write it to a file.
Methods that give a permutation put B's units in A's order; those that give a linear combination find merged units that
combine units of both networks, which featviz merge and featviz triplet take as well. Methods that compare activations
need --data (a few thousand images suffice; labels are not used).

methods:
"""


def description() -> str:
    """With one line for every method of the registry."""
    lines = [
        f"  {m.name:12} {m.gives}: {m.summary}{' (needs --data)' if m.needs_data else ''}" for m in methods().values()
    ]
    return DESCRIPTION + "\n".join(lines) + "\n"


EXAMPLES = """\
examples:
  featviz align a.safetensors b.safetensors --arch resnet20-x2 --size 32 --out ab.safetensors
  featviz align a.pth b.pth --arch resnet18 --arch-arg num_classes=10 --size 224 \\
      --method activations --data imagenette/train --limit 2000 --out ab.safetensors
  featviz align a.pt b.pt --arch mynets.small:make_net --size 28 --channels 1 --out ab.safetensors
"""


def add(commands: Any) -> None:
    parser = arguments.add_command(
        commands, "align", "find which unit of B is which unit of A", description(), EXAMPLES
    )
    arguments.add_pair(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE",
        help="alignment to write (.safetensors), or permutations for other tools (.json)",
    )  # fmt: skip
    parser.add_argument(
        "--method", choices=tuple(methods()), default=AlignConfig.method,
        help="what is compared (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=AlignConfig.seed, help="of the starts (default: %(default)s)")
    for option in option_arguments():
        parser.add_argument(
            "--" + option.name.replace("_", "-"), type=option.read, default=option.default, metavar="X",
            help=f"{option.help} (default: {option.default_text})",
        )  # fmt: skip
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="PATTERN",
        help="parameters that belong to one network alone although both have them, 'fc.*'; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--rename", action="append", default=[], type=arguments.renaming, metavar="B=A",
        help="name of a module or parameter in B and the same in A, layers=features; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--free-outputs", action="store_true",
        help="the networks are the first parts of larger ones: the order of their outputs may change, too",
    )  # fmt: skip
    arguments.add_architecture(parser)
    arguments.add_input(parser, pair=True)
    arguments.add_data(parser, why="; for methods that compare answers, and one more start of weights")
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    method = method_named(args.method, networks=2)
    if method.needs_data and args.data is None:
        raise DataError(f"--method {args.method} compares answers to images: give --data FOLDER.")
    exchanged = args.out.suffix == ".json"
    if exchanged and method.gives == LINEAR:
        raise AlignmentError(f"--method {args.method} has no permutations for {args.out}: give a .safetensors file.")
    options = _options(args)
    check_writable(args.out)
    from featviz.cli import inputs
    from featviz.matching.align import align
    from featviz.matching.alignment import PermutationAlignment
    from featviz.matching.exchange.permutation_files import write_permutations
    from featviz.matching.weight_objectives import weight_objectives

    model_a, model_b = inputs.networks(args)
    data = None if args.data is None else inputs.images(args, model_a, args.size)
    with inputs.bar("aligning") as progress:
        alignment = align(
            model_a, model_b, inputs.example_input(args, model_a, args.size), method.name, data, args.seed,
            progress=progress, options=options, ignore=args.ignore, rename=dict(args.rename) or None,
            free_outputs=args.free_outputs,
        )  # fmt: skip
    if exchanged:
        write_permutations(alignment, model_b, args.out)
    else:
        alignment.save(args.out)
    print(f"{args.out}: {len(alignment.groups)} groups of units in {len(alignment.indexer.layers)} layers")
    for which, own in zip("AB", alignment.private, strict=True):
        if own:
            print(f"private to {which}: {', '.join(own)}")
    unmatched = sum(int((scores == 0).sum()) for scores in alignment.scores.values())
    if not isinstance(alignment, PermutationAlignment):
        if unmatched:
            print(f"merged units whose parts have nothing in common, since one is constant or missing: {unmatched}")
        print(f"{'group':32} {'units':>6} {'parts agree':>12}")
        for group in alignment.groups:
            agree = alignment.scores[group.name].mean()  # NaN: a group without parameters, which is averaged as it is
            print(f"{group.name:32} {group.size:6d} {'-' if math.isnan(agree) else f'{agree:.3f}':>12}")
        return
    print(f"units of B that move: {alignment.moved_units} of {alignment.groups.free_units}")
    if unmatched:
        print(f"units without a partner, since one of both is constant: {unmatched}")
    print("objective of each start: " + ", ".join(f"{value:.3f}" for value in alignment.matching.objectives))
    both = weight_objectives(model_a, model_b, alignment)
    print(f"inner product of the weights: plain {both.plain:.3f}, scale-free {both.scale_free:.3f}")
    print(f"{'group':32} {'units':>6} {'mean score':>11} {'mean margin':>12}")
    for group in alignment.groups:
        score, margin = alignment.scores[group.name].mean(), alignment.margins[group.name].mean()
        print(f"{group.name:32} {group.size:6d} {score:11.3f} {margin:+12.3f}")


def _options(args: Namespace) -> MethodOptions:
    """Those of the chosen method, which may have been registered from outside; all values of our own methods are checked."""
    given = {option.name: getattr(args, option.name) for option in option_arguments()}
    ours = {one.name for one in fields(AlignConfig)}
    AlignConfig(method=args.method, seed=args.seed, **{name: value for name, value in given.items() if name in ours})
    options = method_named(args.method, networks=2).options
    return options(**{one.name: given[one.name] for one in fields(options)})
