"""What Python prints of results is one line, however large they are."""

import pytest
import torch
from networks import TinyResNet, seeded

import featviz
from tests.evidence.test_fate import images


@pytest.fixture(scope="module")
def results() -> dict[str, object]:
    a, b = seeded(TinyResNet), seeded(TinyResNet, 1)
    x = torch.rand(1, 3, 8, 8)
    alignment = featviz.align(a, b, x)
    merged = featviz.merge(a, b, alignment)
    config = featviz.RenderConfig(size=8, steps=2)
    fates = featviz.fate(a, b, alignment, merged, ["bn1"], data=[images(20, 1)], controls=False, exemplars=1)
    triplets = featviz.render_unit_triplet(a, b, "bn1", [1, 2], merged=merged, alignment=alignment, config=config)
    return {
        "PermutationAlignment": alignment,
        "LinearAlignment": featviz.align(a, b, x, method="zipit", data=[images(20, 1)]),
        "ManyAlignment": featviz.align_many([a, b], x, data=[images(20, 1)]),
        "PermutationGroups": alignment.groups,
        "Fates": fates,
        "LayerFates": fates["bn1"],
        "Exemplars": fates.exemplars,
        "Triplets": triplets,
        "Renderings": triplets["A"],
        "NearestUnits": featviz.nearest_units(a, {"B": b}, ["bn1"], data=[images(20, 1)])["B"]["bn1"],
        "UnitStatistics": featviz.unit_statistics(a, ["bn1"], data=[images(20, 1)])["bn1"],
    }


def test_results_are_printed_in_one_line_that_begins_with_their_class(results):
    for name, result in results.items():
        text = repr(result)
        assert text.startswith(f"{name}("), text
        assert len(text) < 120
        assert "\n" not in text
        assert "tensor" not in text
