"""Best images equal a full sort; histograms count every image."""

import numpy as np
import pytest
import torch

from featviz.evidence.exemplars.best_images import BestImages, Histogram


def streamed(values, sizes, k, labels=None, per_label=None):
    best = BestImages(k, per_label)
    numbers = torch.arange(len(values))
    first = 0
    for size in sizes:
        part = slice(first, first + size)
        shown = values[part]
        best.add(
            shown.amax(-1),
            lambda images, units, shown=shown: shown[images, units],
            numbers[part],
            None if labels is None else labels[part],
        )
        first += size
    return best.result()


@pytest.mark.parametrize("sizes", [[40], [1] * 40, [7, 20, 13]])
def test_best_images_equal_a_full_sort(sizes):
    values = torch.randn(40, 5, 6, generator=torch.Generator().manual_seed(0))
    values[:, 4] = values[:, 4].round()  # many equal values
    values[:, 3] = 0
    value, image, position, label = streamed(values, sizes, 9)
    for unit in range(5):
        maxima = values[:, unit].amax(1).numpy()
        order = np.argsort(-maxima, kind="stable")[:9]
        assert image[:, unit].tolist() == order.tolist()
        assert value[:, unit].tolist() == maxima[order].tolist()
        assert position[:, unit].tolist() == [int(values[i, unit].numpy().argmax()) for i in order]
    assert (label == -1).all()


def test_fewer_images_than_asked_for():
    value, image, position, _ = streamed(torch.randn(3, 2, 4), [2, 1], 5)
    assert image[:3].sort(0).values.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert (image[3:] == -1).all()
    assert (position[3:] == -1).all()
    assert (value[3:] == -torch.inf).all()


@pytest.mark.parametrize("per_label", [1, 2])
def test_best_images_spread_over_labels(per_label):
    values = torch.randn(60, 4, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % 4
    value, image, _, label = streamed(values, [11, 40, 9], 6, labels, per_label)
    for unit in range(4):
        maxima, taken = values[:, unit].amax(1), []
        for number in maxima.argsort(descending=True, stable=True).tolist():
            if sum(int(labels[i]) == int(labels[number]) for i in taken) < per_label:
                taken.append(number)
        wanted = taken[:6] + [-1] * (6 - len(taken[:6]))
        assert image[:, unit].tolist() == wanted
        assert label[:, unit].tolist() == [-1 if i < 0 else int(labels[i]) for i in wanted]
        assert torch.equal(value[: len(taken[:6]), unit], maxima[taken[:6]])


@pytest.mark.parametrize("held", [1, 512])
def test_a_histogram_counts_every_image_whatever_range_comes_later(held):
    generator = torch.Generator().manual_seed(0)
    chunks = [torch.randn(50, 3, generator=generator, dtype=torch.float64) * scale for scale in (1, 0.1, 20, 300)]
    chunks[0][:, 2] = 0
    histogram = Histogram(held)
    for chunk in chunks:
        histogram.add(chunk)
    values = torch.cat(chunks).numpy()
    edges, counts = histogram.edges().numpy(), histogram.counts().numpy()
    assert counts.sum(1).tolist() == [200] * 3
    for unit in range(3):
        span = np.ptp(values[:, unit])
        rounding = 1e-9 * span  # of the edges, on which a value may lie
        below, above = ((values[:, unit] < edges[unit][1:, None] + sign * rounding).sum(1) for sign in (-1, 1))
        assert (below <= counts[unit].cumsum()).all()
        assert (counts[unit].cumsum() <= above).all()
        assert np.diff(edges[unit]).max() <= span / 64
        for share in (0.05, 0.5, 0.95):
            assert abs(np.quantile(values[:, unit], share) - histogram.quantile(share)[unit]) < span / 32
    probe = torch.tensor([[-1e9, 0.5, 1e9], [0.3, 1e9, -20]], dtype=torch.float64)
    below = histogram.share_below(probe)
    bin_width = np.diff(edges)[:, 0]
    least, most = ((values[None] < probe.numpy()[:, None] + sign * bin_width).mean(1) for sign in (-1, 1))
    assert (least <= below.numpy() + 1e-12).all()
    assert (below.numpy() <= most + 1e-12).all()
    assert below[0, 0] == 0
    assert below[0, 2] == below[1, 1] == 1


def test_a_unit_of_one_value_has_its_quantiles_there():
    histogram = Histogram()
    histogram.add(torch.tensor([[0.0, 7.0]]).repeat(10, 1))
    np.testing.assert_allclose(histogram.quantile(0.5), [0, 7], rtol=1e-6, atol=1e-12)
    assert histogram.counts().sum(1).tolist() == [10, 10]
