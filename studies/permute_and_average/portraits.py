"""Pictures of units of the bundled pair whose parents agree, and of such that do not, chosen by their figures alone.

    uv run python studies/permute_and_average/portraits.py --data cifar/train

Reads `results/resnet20-x2.json`. Of a layer it shows the three units whose parents agree most and the three whose parents agree
least; in A, B', the repaired merge, the same merge without repair, and the average of A and B as they are, repaired. One random
start for each row.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from estimates import column

import featviz
from featviz.data import ImageFolderBatches

HERE = Path(__file__).parent
GALLERY = HERE.parent.parent / "gallery"
EACH = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", default="layer2.1.bn1")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="training images, for the repairs")
    parser.add_argument("--out", type=Path, default=GALLERY / "study-units.png")
    args = parser.parse_args()
    record = json.loads((HERE / "results" / "resnet20-x2.json").read_text())
    panel = portraits(record, args.layer, args.data)
    print(panel.save(args.out))


def portraits(record: dict, layer: str, data: Path) -> featviz.Panel:
    """Render the chosen units of a layer."""
    pair = featviz.bundled_pair()
    alignment = featviz.load_alignment(pair.alignment_path)
    assert isinstance(alignment, featviz.PermutationAlignment)
    images = ImageFolderBatches(data, 32, limit=2000)
    subjects = {
        "A": pair.a,
        "B'": alignment.permute(pair.b),
        "merged": featviz.merge(pair.a, pair.b, alignment, data=images),
        "unrepaired": featviz.merge(pair.a, pair.b, alignment, repair="none"),
        "not permuted": featviz.merge(pair.a, pair.b, None, data=images),
    }
    units = chosen_units(record["layers"][layer])
    panel = featviz.render_panel(subjects, layer, units, config=featviz.RenderConfig(size=64))
    return panel.with_evidence(fates=featviz.read_fates(pair.fates_path))


def chosen_units(columns: dict) -> list[int]:
    """The units whose parents agree most, and those whose parents agree least."""
    order = np.argsort(-column(columns, "agreement"))
    return [int(unit) for unit in (*order[:EACH], *order[-EACH:])]


if __name__ == "__main__":
    main()
