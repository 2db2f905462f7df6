"""`--also`: further networks beside A, B' and the merge, by name; computed, or read from checkpoints."""

import argparse
from argparse import Namespace
from pathlib import Path
from typing import Any

from featviz.cli import arguments
from featviz.errors import DataError

CONTROLS = {  # columns that `--also` computes -> whether they use the alignment
    "unaligned": False,
    "unrepaired": True,
}


def add(parser: arguments.Parser) -> None:
    """The option."""
    parser.add_argument(
        "--also", action="append", default=[], type=_column, metavar="NAME[=FILE]",
        help="one more network: 'unaligned' (the average of A and B as they are), 'unrepaired' (the merge before its "
        "repair), or the checkpoint of a network in A's order; may be repeated",
    )  # fmt: skip


def _column(text: str) -> tuple[str, str | Path | None]:
    """`unaligned`, `unrepaired` or `NAME=FILE`."""
    name, equals, path = text.partition("=")
    if equals and name:
        return name, arguments.weights(path)
    if name not in CONTROLS or equals:
        raise argparse.ArgumentTypeError(f"{text!r} names no column, write {', '.join(CONTROLS)} or name=checkpoint")
    return name, None


def networks(args: Namespace, model_a: Any, model_b: Any, alignment: Any, data: Any, repair: str) -> dict[str, Any]:
    """The networks of --also by name.

    Raises:
        DataError: "unrepaired" without an alignment.
    """
    from featviz.cli import inputs
    from featviz.merging.merge import merge

    head = None if alignment is None else alignment.head
    found = {}
    for name, path in args.also:
        if path is not None:
            found[name] = inputs.network(args, path)
            continue
        aligned = CONTROLS[name]
        if aligned and alignment is None:
            raise DataError(f"--also {name} needs the alignment of the merge: give --alignment FILE.")
        found[name] = merge(
            model_a, model_b, alignment if aligned else None, repair="none" if aligned else repair, data=data, head=head
        )
    return found
