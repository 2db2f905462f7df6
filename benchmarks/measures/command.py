"""A benchmark command: one subcommand for each measure.

A measure is a module with

    NAME                      of its subcommand, its record `results/NAME.json` and its section in docs/results.md
    add(parser)               its arguments
    measure(args) -> record   the figures, as plain values
    table(records) -> str     a Markdown table of one or more records
    plot(records, path)       optional: a picture, written to `gallery/PLOT`

A measure of several records names them in RECORDS, and each record says its own name as "record".

A module without `table` is a tool: it has `add(parser)` and `run(args)`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from measures import report


def main(description: str | None, measures: Sequence[ModuleType]) -> None:
    """Read the arguments, measure, print the table; with --keep write record, table and plot into the repository."""
    args = parser(description, measures).parse_args()
    measured = vars(args).pop("measured")
    if not hasattr(measured, "table"):
        measured.run(args)
        return
    record = report.provenance() | measured.measure(args)
    print(measured.table([record]))
    if args.out:
        report.write_record(args.out, record)
    if args.keep:
        keep(measured, record)


def parser(description: str | None, measures: Sequence[ModuleType]) -> argparse.ArgumentParser:
    """A parser whose `measured` is the module of the subcommand."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = made.add_subparsers(metavar="MEASURE", required=True)
    for measure in measures:
        summary = (measure.__doc__ or "").partition("\n")[0].rstrip(".")
        command = commands.add_parser(
            measure.NAME,
            help=summary,
            description=measure.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        measure.add(command)
        command.set_defaults(measured=measure)
        if hasattr(measure, "table"):
            command.add_argument(
                "--keep",
                action="store_true",
                help="write the record into benchmarks/results, the table into docs/results.md",
            )
            command.add_argument("--out", type=Path, metavar="FILE", help="write the record to this file")
    return made


def keep(measure: ModuleType, record: report.Record) -> None:
    """Write the record, and the measure's section of docs/results.md and plot from all its records that are kept."""
    report.write_record(report.RESULTS / f"{record.get('record', measure.NAME)}.json", record)
    publish(measure)
    if hasattr(measure, "plot"):
        measure.plot(records(measure), report.GALLERY / measure.PLOT)


def publish(measure: ModuleType) -> None:
    """The section of docs/results.md, from the records that are kept."""
    report.replace_section(measure.NAME, section(measure))


def section(measure: ModuleType) -> str:
    """What docs/results.md has to say of a measure, from the records that are kept."""
    kept = records(measure)
    return report.section(measure.NAME, measure.table(kept), kept)


def records(measure: ModuleType) -> list[report.Record]:
    """Those of a measure that are kept, in order."""
    paths = [report.RESULTS / f"{name}.json" for name in getattr(measure, "RECORDS", (measure.NAME,))]
    return [json.loads(path.read_text()) for path in paths if path.exists()]
