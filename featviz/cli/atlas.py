"""`featviz atlas`: many units of A, B' and the merge, with their evidence, in a folder that can be gone on with."""

import argparse
import contextlib
import signal
import threading
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from featviz.cli import also, arguments, rendering
from featviz.config import REPAIRS
from featviz.config.matching_methods import methods
from featviz.errors import AtlasError, DataError

DESCRIPTION = """\
Render all units of the asked layers in A, in B permuted into A's order, and in the merged network, and measure on
--data what became of each. Everything is written into one folder as it is done: the same command goes on after an
interruption of any kind, and several processes may work on one folder at once (--shard, --ray). `featviz page DIR`
makes a page of it, at any time.
"""

EXAMPLES = """\
examples:
  featviz atlas a.safetensors b.safetensors --arch resnet20-x2 --size 64 --layers 'layer3.*' \\
      --data cifar/train --data-size 32 --out runs/ab
  featviz atlas --status --out runs/ab
  featviz page runs/ab
  for i in 0 1 2; do featviz atlas a.pth b.pth --arch resnet50 --out runs/ab --shard $i/3 --device cuda:$i & done
"""


def add(commands: Any) -> None:
    parser = arguments.add_command(
        commands, "atlas", "all units with their evidence, in a folder", DESCRIPTION, EXAMPLES
    )
    arguments.add_pair(parser, optional=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of the atlas")
    parser.add_argument("--status", action="store_true", help="print how much of the atlas is there, and do nothing")
    parser.add_argument(
        "--layers", action="append", metavar="LAYER[:UNITS]",
        help="layer3.1.bn1, 'layer3.*' or layer3.1.bn1:0-15; may be repeated (default: all norms, or all layers with "
        "weights)",
    )  # fmt: skip
    parser.add_argument("--alignment", type=Path, metavar="FILE", help="made by featviz align (default: the folder's)")
    parser.add_argument(
        "--method", choices=tuple(methods()), metavar="NAME",
        help="of the matching, as in featviz align (default: activations with --data, else weights)",
    )  # fmt: skip
    parser.add_argument("--merged", type=arguments.weights, metavar="FILE", help="checkpoint of the merged network")
    parser.add_argument("--repair", choices=REPAIRS, default="auto", help="of the merge (default: %(default)s)")
    also.add(parser)
    parser.add_argument(
        "--path", type=float, nargs="+", default=[], metavar="WEIGHT",
        help="further merges at these weights of B, for example 0.25 0.75: the path from A to B'",
    )  # fmt: skip
    arguments.add_options(parser, arguments.DEFAULTS.atlas)
    parser.add_argument(
        "--shard",
        type=_shard,
        default=(0, 1),
        metavar="I/N",
        help="do every N-th item, from the I-th on (default: all)",
    )
    parser.add_argument("--ray", action="store_true", help="hand the items to workers of a Ray cluster (extra: ray)")
    parser.add_argument("--address", metavar="ADDRESS", help="of a running Ray cluster (default: one on this machine)")
    parser.add_argument("--workers", type=arguments.positive, metavar="N", help="of Ray (default: as many as fit)")
    arguments.add_architecture(parser)
    rendering.add_rendering(parser, pair=True)
    data = arguments.add_data(parser, why="; for matching and repair, and for what became of each unit")
    data.add_argument(
        "--data-size", type=arguments.size, metavar="PIXELS", help="side that the networks were trained with"
    )
    parser.set_defaults(run=run)


def _shard(text: str) -> tuple[int, int]:
    """`0/3`."""
    index, slash, count = text.partition("/")
    if not slash or not index.isdecimal() or not count.isdecimal() or int(index) >= int(count):
        raise argparse.ArgumentTypeError(f"{text!r} is no shard, write 0/3, 1/3 or 2/3")
    return int(index), int(count)


def run(args: Namespace) -> None:
    from featviz.cli import inputs

    if args.status:
        print(status(args.out))
        return
    if args.a is None or args.b is None:
        raise AtlasError("an atlas is of two networks: give A and B (or --status).")
    if args.data is not None and args.data_size is None:
        raise DataError("--data needs --data-size: give the side of the images that the networks were trained with.")
    if (args.address or args.workers) and not args.ray:
        raise AtlasError("--address and --workers are of Ray: add --ray.")
    config = rendering.render_config(args)
    from featviz.atlases.run import atlas

    workers = None
    if args.ray:
        from featviz.atlases.ray_workers import RayWorkers

        workers = RayWorkers(address=args.address, workers=args.workers)
    model_a, model_b = inputs.networks(args)
    data = inputs.images(args, model_a, args.data_size)
    alignment = None if args.alignment is None else inputs.alignment(args, model_a, model_b, config.input_hw)
    merged = None if args.merged is None else inputs.network(args, args.merged)
    further = also.networks(args, model_a, model_b, alignment, data, args.repair)
    try:
        with _termination_as_interrupt(), inputs.bar("units") as progress:
            atlas(
                model_a, model_b, args.out, args.layers, alignment=alignment, method=args.method, merged=merged,
                repair=args.repair, also=further, path=args.path, data=data, exemplars=args.exemplars, config=config,
                units_per_item=args.units_per_item, images=args.images, shard=args.shard, workers=workers,
                progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        inputs.say(f"{args.out} is whole as far as it is done: the same command goes on from there.")
        raise
    inputs.say(
        f"{args.out}: shard {args.shard[0]}/{args.shard[1]} is done. featviz page {args.out} makes a page of it."
    )


@contextlib.contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does; in a thread, which gets no signals, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def status(folder: Path) -> str:
    """A table of the layers: units rendered, measured and asked for."""
    from featviz.atlases.store import AtlasStore

    rows = AtlasStore.open(folder).status()
    width = max([5, *(len(row.name) for row in rows)])
    lines = [f"{'layer':{width}}  rendered  measured  units"]
    lines += [f"{row.name:{width}}  {row.rendered:8}  {row.measured:8}  {row.units:5}" for row in rows]
    total = [sum(getattr(row, name) for row in rows) for name in ("rendered", "measured", "units")]
    lines.append(f"{'all':{width}}  {total[0]:8}  {total[1]:8}  {total[2]:5}")
    return "\n".join(lines)
