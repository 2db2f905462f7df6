"""`featviz bench`: how fast a layer renders on a device, beside what the network and the device can do."""

import json
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from featviz.cli import arguments, rendering
from featviz.files import check_writable, write_atomically

DESCRIPTION = """\
Render units of a layer and time it, all set-up counted, beside the bare network (frozen, cut at the layer, forward and
input gradient at the same batch and precision) and beside a large matrix product. One line per layer.
"""

EXAMPLES = """\
examples:
  featviz bench --arch resnet18 --layer layer2 --layer layer4 --size 224 --steps 32
  featviz bench --arch resnet50 --layer layer3 --device cuda --images 1024 --out bench.json
  featviz bench a.safetensors --arch resnet20-x2 --layer layer3.1.bn1 --size 64
"""


def add(commands: Any) -> None:
    parser = arguments.add_command(commands, "bench", "render throughput of a device", DESCRIPTION, EXAMPLES)
    parser.add_argument("a", type=arguments.weights, nargs="?", metavar="A", help="checkpoint (default: fresh weights)")
    parser.add_argument(
        "--layer", action="append", required=True, metavar="LAYER", help="layer3.1.bn1; may be repeated"
    )
    parser.add_argument("--images", type=arguments.positive, metavar="N", help="units rendered (default: one batch)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON of the figures")
    arguments.add_architecture(parser)
    rendering.add_rendering(parser)
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    config = rendering.render_config(args)
    if args.out:
        check_writable(args.out)
    from featviz.cli import inputs
    from featviz.rendering.throughput import throughput

    model = inputs.network(args, args.a)
    found = {}
    for layer in args.layer:
        with inputs.bar(layer) as progress:
            one = throughput(model, layer, config, args.images, args.device, progress)
        found[layer] = asdict(one) | {"per_second": one.per_second, "of_trunk": one.of_trunk}
        memory = f", peak {one.peak / 2**30:.2f} GiB" if one.peak is not None else ""
        print(
            f"{layer}: {one.per_second:.2f} renderings per second on {one.device} ({one.images} of {one.steps} steps, "
            f"{one.batch} at once, {one.precision}); {one.milliseconds:.3g} ms per image and step, {one.of_trunk:.2f} of the "
            f"bare trunk; {one.teraflops:.3g} of {one.rate:.3g} TFLOP/s{memory}; {one.backend}"
        )
    if args.out:
        record = {"arch": args.arch, "config": asdict(config), "layers": found}
        write_atomically(args.out, lambda part: part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8"))
