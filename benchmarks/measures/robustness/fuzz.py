"""Damaged and hostile input for every reader of files and of text.

    uv run python benchmarks/robustness.py fuzz --keep
    uv run python benchmarks/robustness.py fuzz --reader alignments --seed 4711    # one case once more, with its traceback

What a case is, and when it fails: `cases.py`. The mutations: `mutations.py`. The readers: `readers.py`.
"""

import argparse
import sys
import time
from typing import Any

from tqdm import tqdm

from measures.report import Record, markdown
from measures.robustness import cases
from measures.robustness.cases import Outcome, Reader

NAME = "fuzz"
HEAD = ("reader", "cases", "read", "refused in one sentence", "failed")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reader", metavar="NAME", help="of one row alone")
    parser.add_argument("--seed", type=int, metavar="N", help="of one case alone")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first case")
    parser.add_argument("--cases", type=int, metavar="N", help="of every reader, in place of its own number")


def measure(args: argparse.Namespace) -> Record:
    from measures.robustness.readers import READERS

    chosen = [reader for reader in READERS if args.reader in (None, reader.name)]
    if not chosen:
        sys.exit(f"there is no reader {args.reader!r}: use one of {', '.join(reader.name for reader in READERS)}.")
    if args.keep and (args.reader or args.cases or args.seed is not None):
        sys.exit("--keep keeps a whole run: leave --reader, --seed and --cases out.")
    began = time.monotonic()
    rows = [fuzz(reader, args) for reader in chosen]
    return {"rows": rows, "seconds": round(time.monotonic() - began)}


def fuzz(reader: Reader, args: argparse.Namespace) -> dict[str, Any]:
    """The row of one reader; failures are said on stderr."""
    count = reader.cases if args.cases is None else args.cases
    seeds = range(args.first, args.first + count) if args.seed is None else [args.seed]
    began = time.monotonic()
    with tqdm(total=len(seeds), desc=reader.name, disable=None) as bar:
        outcome = cases.run(reader, seeds, bar.update)
    report(outcome, with_traces=args.seed is not None)
    return {
        "reader": reader.name,
        "cases": outcome.cases,
        "returned": outcome.returned,
        "refused": outcome.refused,
        "failed": len(outcome.failures),
        "failures": [[one.seed, one.kind, one.text, one.where] for one in outcome.failures[:20]],
        "seconds": round(time.monotonic() - began, 1),
    }


def report(outcome: Outcome, with_traces: bool) -> None:
    """Every kind of failure with the numbers of its first cases."""
    for key, count in outcome.kinds().most_common():
        like = [one for one in outcome.failures if (one.kind, one.text.partition("(")[0][:60], one.where) == key]
        print(
            f"{count} x {key[0]} at {key[2]}: {like[0].text[:300]}, seeds {[one.seed for one in like[:4]]}",
            file=sys.stderr,
        )
        if with_traces:
            print(like[0].trace, file=sys.stderr)


def table(records: list[Record]) -> str:
    (record,) = records
    keys = ("cases", "returned", "refused", "failed")
    rows = [[row["reader"], *(f"{row[key]:,}" for key in keys)] for row in record["rows"]]
    rows.append(["all", *(f"{sum(row[key] for row in record['rows']):,}" for key in keys)])
    return markdown(HEAD, rows)
