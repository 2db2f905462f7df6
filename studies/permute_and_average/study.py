"""What permuting and averaging does to the features of two networks: pairs of networks -> figures, pictures, a report.

    uv run python studies/permute_and_average/study.py resnet20-x2 --data cifar/ --out out/study
    uv run python studies/permute_and_average/study.py           # the report, from the records that are kept

Each pair leaves `OUT/<pair>` with its alignments, figures and an atlas (open OUT/<pair>/atlas/page/index.html), and
OUT/report.md tells of all pairs that were measured. The same command goes on where it was stopped. --keep puts the records
into `results`, report and figures beside this file and into `gallery`; without a pair they are written from the kept records.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.append(str(ROOT / "benchmarks"))

import torch  # noqa: E402
from measure import Study  # noqa: E402
from measures.report import provenance  # noqa: E402
from pairs import TITLES, load_pair  # noqa: E402
from report import write_report  # noqa: E402

RESULTS = HERE / "results"


def main() -> None:
    args = _parser().parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("study").setLevel(logging.INFO)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.pairs and args.data is None:
        raise SystemExit("the pairs are measured on images: give --data FOLDER with CIFAR-10.")
    records = []
    for name in args.pairs:
        pair = load_pair(name, args.data, args.runs, args.public, args.images)
        record = provenance() | Study(pair, args.out / name, args.units, args.layers).record()
        records.append(record)
        if args.keep:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{name}.json").write_text(json.dumps(record) + "\n")
    if args.keep or not args.pairs:
        records = [json.loads(path.read_text()) for path in kept_records()]
        if not records:
            raise SystemExit("no record is kept: name a pair, with --data and --keep.")
        print(write_report(records, HERE / "README.md", ROOT / "gallery"))
    else:
        print(write_report(records, args.out / "report.md", args.out))


def kept_records() -> list[Path]:
    """The files of the records that are kept, in the order of `TITLES`."""
    return [path for name in TITLES if (path := RESULTS / f"{name}.json").exists()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", metavar="PAIR", help=f"one or more of {', '.join(TITLES)}")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="CIFAR-10 as train/<class>/* and test/<class>/*")
    parser.add_argument("--public", type=Path, metavar="FOLDER", help="public checkpoints, for the public pairs")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="trained networks (default: runs)")
    parser.add_argument("--out", type=Path, default=Path("out/study"), help="default: out/study")
    parser.add_argument("--images", type=int, default=1000, help="test images that units are measured on")
    parser.add_argument("--units", type=int, default=8, help="units of a layer that are rendered; 0: none")
    parser.add_argument("--layers", type=int, default=6, help="layers of which units are rendered")
    parser.add_argument("--threads", type=int, help="of torch (default: all cores)")
    parser.add_argument("--keep", action="store_true", help="keep records, report and figures in the repository")
    return parser


if __name__ == "__main__":
    main()
