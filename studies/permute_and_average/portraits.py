"""Pictures of units of the bundled pair that were kept, blended and lost, chosen by their figures and not by their looks.

    uv run python studies/permute_and_average/portraits.py --data cifar/train

Reads `results/resnet20-x2.json`. Of a layer it shows the two units whose parents agree most, the two whose parents agree
least while their mean is kept (fidelity above the layer's median), and the two with the lowest fidelity; in A, B', the repaired
merge, the same merge without repair, and the average of A and B as they are, repaired. One random start for each row.
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
EACH = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", default="layer3.1.bn1")
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
    return featviz.render_panel(
        subjects, layer, chosen_units(record["layers"][layer]), config=featviz.RenderConfig(size=64)
    )


def chosen_units(columns: dict) -> list[int]:
    """Two units that agree most, two that agree least and are kept as a mean, two with the lowest fidelity."""
    c, f = column(columns, "agreement"), column(columns, "fidelity")
    kept = np.argsort(-c)[:EACH]
    whole = np.flatnonzero(f > np.median(f))
    blended = whole[np.argsort(c[whole])][:EACH]
    lost = [unit for unit in np.argsort(f) if unit not in {*kept, *blended}][:EACH]
    return [int(unit) for unit in (*kept, *blended, *lost)]


if __name__ == "__main__":
    main()
