"""The study of permuting and averaging: what it finds on the bundled pair, its figures, its report, its command."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import featviz
from tests.docs.test_results import ROOT

STUDY = ROOT / "studies" / "permute_and_average"
sys.path.append(str(STUDY))

import estimates  # noqa: E402
import pairs  # noqa: E402
from answers import QUESTIONS, methods, mixture, pictures, survival  # noqa: E402
from measure import Study, spread  # noqa: E402
from report import report, write_report  # noqa: E402
from study import kept_records  # noqa: E402

LAYERS = ("bn1", "layer2.2.bn*", "layer3.1.bn*", "layer3.2.bn*")


@pytest.fixture(scope="module")
def study(cifar, tmp_path_factory) -> Study:
    """Of the bundled pair, on 200 images, in a few layers, with the alignment that is bundled too."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copy(featviz.bundled_pair().alignment_path, folder / "alignment-activations.safetensors")
    a, b = (featviz.Subject(net, name) for net, name in zip(_networks(), "AB", strict=True))
    images = {name: pairs.cifar_images(cifar, train, count) for name, train, count in
              (("calibration", True, 250), ("measured", False, 200), ("accuracy", False, 200))}  # fmt: skip
    pair = pairs.Pair("resnet20-x2", "ResNet-20 x2", a, b, **images, size=32, layers=LAYERS, methods=("activations",))
    return Study(pair, folder, rendered=0)


@pytest.fixture(scope="module")
def record(study) -> dict:
    return study.record()


def test_agreement_tells_fidelity_on_other_images_and_more_than_the_match_score(record):
    agreement = estimates.rank_in_layers(record, survival.C, survival.F)
    score = estimates.rank_in_layers(record, "score", survival.F)
    assert agreement.mean > 0.3
    assert agreement.mean > score.mean + 0.1


def test_repair_gives_fidelity_back_in_late_layers_and_changes_nothing_in_the_first(record):
    before, after = (estimates.layer_means(record, name) for name in ("unrepaired fidelity", "fidelity"))
    assert after[0] == pytest.approx(before[0], abs=1e-3)
    assert after[-1] > before[-1] + 0.4


def test_a_merged_unit_is_the_mean_of_its_parents_units_and_something_that_neither_has(record):
    _, extra, rest = mixture.shares(record)
    assert estimates.mean_of(extra) < 0.03
    assert rest[-1] > rest[0] + 0.1


def test_a_study_goes_on_where_it_was(study, record):
    times = {path: path.stat().st_mtime_ns for path in study.folder.glob("*.json")}
    (study.folder / "kinds.json").unlink()
    again = Study(study.pair, study.folder, rendered=0).record()
    again["seconds"]["kinds"] = record["seconds"]["kinds"]
    assert again == record
    kept = {path: path.stat().st_mtime_ns for path in times if path.name not in ("kinds.json", "settings.json")}
    assert kept == {path: times[path] for path in kept}
    with pytest.raises(SystemExit, match="give another --out"):
        Study(study.pair, study.folder, rendered=4).record()


def test_the_report_of_one_pair_has_all_questions_and_figures(record, tmp_path):
    from measures.report import provenance

    path = write_report([provenance() | record], tmp_path / "report.md", tmp_path / "figures")
    text = path.read_text()
    assert text.count("\n## ") == len(QUESTIONS) + 3
    for line in text.splitlines():
        if line.startswith("!["):
            assert (tmp_path / line.partition("](")[2].rstrip(")")).stat().st_size > 5000
    assert "nan" not in text


def test_the_kept_report_is_that_of_the_kept_records():
    records = [json.loads(path.read_text()) for path in kept_records()]
    assert len(records) == len(list((STUDY / "results").iterdir())) >= 3
    answers = [question.answer(records) for question in QUESTIONS]
    assert (STUDY / "README.md").read_text() == report(records, answers, "../../gallery", units=True)


def test_the_best_mix_of_two_parents_is_the_regression_on_both():
    generator = np.random.default_rng(0)
    a = generator.normal(size=(5, 4000))
    b = 0.4 * a + generator.normal(size=a.shape)
    merged = 0.7 * a + 0.2 * b + generator.normal(size=a.shape)
    expected = []
    for x, y, m in zip(a, b, merged, strict=True):
        basis = np.stack([x - x.mean(), y - y.mean()], 1)
        left = m - m.mean() - basis @ np.linalg.lstsq(basis, m - m.mean(), rcond=None)[0]
        expected.append(1 - left.var() / m.var())

    def of(one, other):
        return [float(np.corrcoef(x, y)[0, 1]) for x, y in zip(one, other, strict=True)]

    columns = {
        "agreement": of(a, b), "correlation A": of(merged, a), "correlation B'": of(merged, b),
        "fidelity": of(merged, (a + b) / 2),
    }  # fmt: skip
    plain, mix = estimates.explained(columns)
    np.testing.assert_allclose(mix, expected, atol=1e-6)
    np.testing.assert_allclose(plain, np.square(columns["fidelity"]))


def test_overlap_of_worst_quarters_is_one_of_equal_methods_and_chance_of_unrelated_ones():
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(2, 400)).tolist()
    layer = {"agreement": one, "nearest A in activations": one, "nearest A in weights": one}
    ranks, shared = methods.agreeing({"layers": {"1": layer}}, ["activations", "weights"])
    assert (ranks.mean, shared.mean) == pytest.approx((1, 1))
    layer["nearest A in weights"] = other
    ranks, shared = methods.agreeing({"layers": {"1": layer}}, ["activations", "weights"])
    assert abs(ranks.mean) < 0.15
    assert 0.1 < shared.mean < 0.4


def test_transfer_is_measured_from_the_mean_on_images():
    layer = {"agreement": [0.5] * 2, "merged mean": [-1.0, 0.0], "correlation A": [0.8, 0.2]}
    units = [
        {"layer": "1", "unit": 0, "dead": [], "cross": [[2, 1, 1], [0, 0, 0], [1, 1, 3]]},
        {"layer": "1", "unit": 1, "dead": ["merged"], "cross": [[2, 1, 1], [0, 0, 0], [1, 1, None]]},
    ]
    (found,) = pictures.transfers({"layers": {"1": layer}, "pictures": units})
    assert found["transfer"] == pytest.approx(0.5)  # (1 + 1) / (3 + 1)


def test_rendered_layers_are_spread_from_the_first_to_the_last():
    assert spread(["a", "b", "c", "d", "e"], 3) == ["a", "c", "e"]
    assert spread(["a", "b"], 6) == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["resnet20-x2"], "give --data"),
        (["public-resnet20", "--data", "x"], "give --public"),
        (["resnet20-x3", "--data", "x"], "did you mean"),
    ],
)
def test_what_is_missing_is_told_in_a_sentence(arguments, told, tmp_path):
    command = [sys.executable, str(STUDY / "study.py"), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode != 0
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.iterdir())


def _networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    pair = featviz.bundled_pair()
    return copy.deepcopy(pair.a), copy.deepcopy(pair.b)


def test_the_study_is_found_from_the_readme():
    assert "studies/permute_and_average" in Path(ROOT, "README.md").read_text()
