"""The command line: arguments in, exit code out. 0 is done, 2 is a mistake that the user can mend, 130 is Ctrl-C.

Help costs no torch: what a command needs it imports when it runs.
"""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence

from featviz.cli import align, atlas, barrier, bench, compare, demo, fate, info, merge, page, panel, triplet
from featviz.cli.arguments import Parser
from featviz.errors import FeatvizError

DESCRIPTION = """\
Feature visualization for merged networks: the same unit in network A, in network B permuted into A's order (B'),
and in their merge, side by side.
"""

EXAMPLES = """\
from two checkpoints to pictures:
  featviz demo                                                     a bundled pair, no data, some minutes
  featviz info a.safetensors --arch resnet20-x2 --size 32          what can be permuted, which layers have units
  featviz align a.safetensors b.safetensors --arch resnet20-x2 --size 32 --out ab.safetensors
  featviz merge a.safetensors b.safetensors --arch resnet20-x2 --size 32 --alignment ab.safetensors \\
      --data cifar/train --out merged.safetensors
  featviz triplet a.safetensors b.safetensors --arch resnet20-x2 --alignment ab.safetensors \\
      --merged merged.safetensors --units layer3.1.bn1:0-7 --size 64 --out pictures

featviz COMMAND --help explains each.
"""

COMMANDS = (demo, info, compare, align, merge, barrier, triplet, fate, panel, atlas, page, bench)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` None takes the process's own arguments."""
    parser = Parser(prog="featviz", description=DESCRIPTION, epilog=EXAMPLES)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    try:
        with warnings.catch_warnings(), _shown_log():
            warnings.showwarning = _show_warning
            args = parser.parse_args(argv)
            args.run(args)
            sys.stdout.flush()
    except FeatvizError as error:
        print(f"featviz: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough, as in `featviz info ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("featviz: stopped", file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def _shown_log() -> Iterator[None]:
    """Warnings of featviz's log as notes on stderr."""
    log, handler = logging.getLogger("featviz"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("featviz: note: %(message)s"))
    handler.setLevel(logging.WARNING)
    propagate, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagate


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    del category, filename, lineno, file, line
    print(f"featviz: note: {message}", file=sys.stderr)
