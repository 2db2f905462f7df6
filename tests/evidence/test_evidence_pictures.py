"""Exemplars as pictures, under renderings, and plots of fates."""

import json

import numpy as np
import pytest
from networks import TinyResNet
from PIL import Image

from featviz.config import FateConfig, RenderConfig
from featviz.errors import OutputError, UnitError
from featviz.evidence.exemplars.exemplar_picture import exemplar_picture
from featviz.evidence.exemplars.exemplars import exemplars
from featviz.evidence.fates.fate import fate
from featviz.panel_rendering import render_panel
from featviz.triplet import render_unit_triplet
from tests.evidence.test_fate import images, pair

FEW = FateConfig(resamples=10)


@pytest.fixture(scope="module")
def measured():
    a, b, alignment, merged = pair(TinyResNet)
    data = [images(40)]
    fates = fate(a, b, alignment, merged, ["bn1", "bn2"], data=data, controls=False, config=FEW, exemplars=4)
    return a, b, alignment, merged, data, fates


def test_a_panel_shows_exemplars_and_fates_of_its_units(measured, tmp_path):
    a, b, alignment, merged, data, fates = measured
    config = RenderConfig(size=8, steps=2)
    plain = render_unit_triplet(a, b, "bn2", [1, 5], merged=merged, alignment=alignment, config=config)
    picture = exemplar_picture(fates.exemplars, data, "bn2", [1, 5])
    panel = plain.with_evidence(picture, fates)
    assert panel.grid().height > plain.grid(per_line=1).height
    assert plain.exemplars is None
    record = json.loads(panel.save(tmp_path / "bn2.png").with_suffix(".json").read_text())
    for row, unit in enumerate((1, 5)):
        assert record["units"][row]["fate"]["verdict"] == fates["bn2"].verdicts.verdict[unit]
        told = record["units"][row]["exemplars"]
        assert set(told) == {"A", "B'", "merged"}
        assert [e["image"] for e in told["merged"]] == [e.image for e in fates.exemplars.found("bn2", unit, "merged")]
    assert panel.captions(1)["merged"][-2:] == fates.caption("bn2", 5)
    with pytest.raises(UnitError, match="bn1"):
        plain.with_evidence(exemplar_picture(fates.exemplars, data, "bn1", [0]))


def test_exemplars_are_saved_as_a_picture(measured, tmp_path):
    a, _, _, _, data, _ = measured
    tops = exemplars({"A": a}, "bn1", data, k=4)
    picture = exemplar_picture(tops, data, "bn1", [0, 3])
    path = picture.save(tmp_path / "tops.png")
    assert np.asarray(Image.open(path)).std() > 0
    record = json.loads(path.with_suffix(".json").read_text())
    assert [e["image"] for e in record["exemplars"]["A"]["3"]] == [e.image for e in tops.found("bn1", 3, "A")]


@pytest.mark.parametrize("kind", ["verdicts", "units", "predicted"])
def test_fates_are_plotted(measured, tmp_path, kind):
    path = measured[-1].plot(tmp_path / f"{kind}.png", kind, "a title")
    assert np.asarray(Image.open(path)).std() > 0
    with pytest.raises(OutputError, match="no plot 'bars'"):
        measured[-1].plot(path, "bars")


def test_fates_belong_to_a_column_that_is_called_merged(measured):
    a, *_, merged, _, fates = measured
    panel = render_panel({"A": a, "average": merged}, "bn2", [0], config=RenderConfig(size=8, steps=0))
    with pytest.raises(UnitError, match="no column shows"):
        panel.with_evidence(fates=fates)
