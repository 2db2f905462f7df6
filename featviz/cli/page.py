"""`featviz page`: the page of an atlas."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from featviz.cli import arguments

DESCRIPTION = """\
Write the page of an atlas, also of one that is half finished: a folder that a browser opens from disk, without a server.
"""

EXAMPLES = """\
examples:
  featviz page runs/ab                   writes runs/ab/page/ and prints the file to open
  featviz page runs/ab --out site
"""


def add(commands: Any) -> None:
    parser = arguments.add_command(commands, "page", "the page of an atlas", DESCRIPTION, EXAMPLES)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the atlas, made by featviz atlas")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="of the page (default: page in the atlas's folder)")
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    from featviz.atlases.page import page

    print(page(args.folder, args.out))
