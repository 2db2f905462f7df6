"""Streaming moments equal numpy's on all samples at once, however the samples are cut into chunks."""

import numpy as np
import pytest
import torch

from featviz.errors import DataError
from featviz.moments import Moments, samples_of

PAIRS = {"paired": [(0, 2)], "crossed": [(0, 1), (1, 1)]}


@pytest.fixture
def sets():
    """Three correlated sets of 4, 3 and 4 units, 1,000 samples each, with large means."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 6, generator=generator, dtype=torch.float64)
    mixes = [torch.randn(6, n, generator=generator, dtype=torch.float64) for n in (4, 3, 4)]
    return [x @ mix * 0.1 + 10 * torch.arange(1, 1 + mix.shape[1]) for mix in mixes]


def added(sets, sizes, **options):
    moments = Moments(**options)
    for parts in zip(*(x.split(sizes) for x in sets), strict=True):
        moments.add(*parts)
    return moments


def reference(one, other):
    """Biased covariance (n, m) by numpy."""
    one, other = (np.asarray(x, dtype=np.float64) for x in (one, other))
    return np.cov(one.T, other.T, bias=True)[: one.shape[1], one.shape[1] :]


@pytest.mark.parametrize("sizes", [[1000], [1, 999], [37] * 27 + [1], [500, 0, 500]])
def test_moments_equal_numpy_however_the_samples_are_cut(sets, sizes):
    moments = added(sets, sizes, **PAIRS)
    assert moments.count == 1000
    for i, x in enumerate(sets):
        np.testing.assert_allclose(moments.mean(i), x.numpy().mean(0), rtol=1e-13)
        np.testing.assert_allclose(moments.variance(i), x.numpy().var(0), rtol=1e-11)
    for i, j in PAIRS["crossed"]:
        np.testing.assert_allclose(moments.covariance(i, j), reference(sets[i], sets[j]), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(moments.covariance(0, 2), reference(sets[0], sets[2]).diagonal(), rtol=1e-9, atol=1e-13)
    correlation = np.corrcoef(sets[0].numpy().T, sets[1].numpy().T)[:4, 4:]
    np.testing.assert_allclose(moments.correlation(0, 1), correlation, atol=1e-11)
    np.testing.assert_allclose(moments.inner_product(0, 1), sets[0].T @ sets[1] / 1000, rtol=1e-12)
    norms = [x.square().mean(0).sqrt() for x in sets]
    expected = (sets[0].T @ sets[1] / 1000) / torch.outer(norms[0], norms[1])
    np.testing.assert_allclose(moments.cosine(0, 1), expected, rtol=1e-12)


def test_the_order_of_a_pair_transposes_its_covariance(sets):
    moments = added(sets, [300, 700], **PAIRS)
    assert torch.equal(moments.covariance(1, 0), moments.covariance(0, 1).T)
    assert torch.equal(moments.covariance(2, 0), moments.covariance(0, 2))


def test_a_large_mean_costs_no_digits():
    x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1e5
    x[:5] = 0  # the first chunk is nothing like the others
    moments = added([x, x.flip(1)], [5, 95, 3900], crossed=[(0, 1)])
    np.testing.assert_allclose(moments.variance(), x.numpy().var(0), rtol=1e-11)
    rest = Moments(crossed=[(0, 1)])
    rest.add(x[5:], x[5:].flip(1))
    centred = x[5:] - x[5:].mean(0)
    np.testing.assert_allclose(rest.covariance(0, 1), centred.T @ centred.flip(1) / len(centred), atol=1e-10)


def test_merged_moments_equal_those_of_all_samples(sets):
    parts = [added([x[:300] for x in sets], [300], **PAIRS), added([x[300:] for x in sets], [700], **PAIRS)]
    merged = Moments(**PAIRS)
    for part in parts:
        merged.merge(part)
    whole = added(sets, [1000], **PAIRS)
    assert merged.count == whole.count == 1000
    assert parts[0].count == 300  # what was merged stays as it is
    np.testing.assert_allclose(parts[0].mean(1), sets[1][:300].mean(0), rtol=1e-13)
    torch.testing.assert_close(merged.covariance(1, 1), whole.covariance(1, 1), rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(merged.variance(2), whole.variance(2), rtol=1e-11, atol=0)


def test_units_that_never_vary_correlate_with_nothing(sets):
    x = sets[0].clone().float()
    x[:, 1], x[:, 2] = 0.1, 0
    x[::2, 1] = torch.nextafter(x[0, 1], torch.tensor(1.0))  # the rounding of a float32
    moments = added([x, sets[1]], [333, 333, 334], crossed=[(0, 1), (0, 0)])
    assert moments.varies(0).tolist() == [True, False, False, True]
    assert (moments.correlation(0, 1)[1:3] == 0).all()
    assert (moments.covariance(0, 0)[:, 1:3] == 0).all()
    assert moments.cosine(0, 1)[2].tolist() == [0, 0, 0]
    assert (moments.correlation(0, 1)[[0, 3]] != 0).all()


def test_a_sample_that_is_not_finite_shows_in_every_figure(sets):
    sets[0][500, 2] = torch.nan
    moments = added(sets, [300, 700], **PAIRS)
    assert moments.correlation(0, 1)[2].isnan().all()
    assert moments.covariance(0, 1)[2].isnan().all()
    assert moments.correlation(0, 2)[2].isnan()
    assert moments.correlation(0, 1)[[0, 1, 3]].isfinite().all()


def test_float32_products_agree_with_float64(sets):
    sets = [x.float() for x in sets]
    single, double = (added(sets, [100] * 10, **PAIRS, dtype=dtype) for dtype in (torch.float32, torch.float64))
    assert single.covariance(0, 1).dtype == torch.float64
    torch.testing.assert_close(single.correlation(0, 1), double.correlation(0, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(single.mean(1), double.mean(1), atol=0, rtol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = added(sets, [100] * 10, **PAIRS, dtype=torch.float32)
    assert torch.equal(rounded.covariance(0, 1), single.covariance(0, 1))


@pytest.mark.parametrize(("shape", "axis"), [((5, 3, 4, 2), 1), ((5, 3), 1), ((5, 7, 3), -1), ((3, 5), 0)])
def test_samples_are_images_and_positions(shape, axis):
    x = torch.randn(shape, requires_grad=True)
    expected = np.moveaxis(x.detach().numpy(), axis, -1).reshape(-1, 3)
    assert np.array_equal(samples_of(x, axis).numpy(), expected)


def test_what_cannot_be_measured_is_refused(sets):
    moments = Moments(**PAIRS)
    with pytest.raises(DataError, match="no samples"):
        moments.mean()
    with pytest.raises(DataError, match="do not belong together"):
        moments.add(sets[0], sets[1][:5], sets[2])
    moments.add(*sets)
    with pytest.raises(DataError, match=r"sets 1 and 2 .* `paired` or `crossed`"):
        moments.covariance(1, 2)
    with pytest.raises(DataError, match=r"\(4,\), \(3,\), \(4,\)"):
        moments.add(sets[0], sets[1][:, :2], sets[2])
    with pytest.raises(DataError, match="other pairs"):
        moments.merge(added(sets, [1000], paired=[(0, 2)]))


def test_a_chunk_of_many_samples_is_summed_as_a_whole():
    x = torch.randn(300_001, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    moments = added([x, x[:, :1]], [300_001], crossed=[(0, 1)])
    np.testing.assert_allclose(moments.mean(), x.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance(0, 1), reference(x, x[:, :1]), rtol=1e-10)


def test_samples_of_low_precision_lose_nothing_more():
    x = (torch.rand(5000, 3, generator=torch.Generator().manual_seed(0)) + 100).half()  # steps of 1/16
    moments = added([x, x.flip(1)], [5000], crossed=[(0, 1)], paired=[(0, 0)])
    np.testing.assert_allclose(moments.mean(), x.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance(), x.double().numpy().var(0), rtol=1e-10)
    np.testing.assert_allclose(moments.covariance(0, 0), x.double().numpy().var(0), rtol=1e-10)
    np.testing.assert_allclose(moments.covariance(0, 1), reference(x, x.flip(1)), rtol=1e-9)


def test_folds_are_measured_apart(sets):
    folds = [x.view(4, 250, -1) for x in sets]
    moments = Moments(**PAIRS)
    for first in (0, 100, 200):
        moments.add(*(x[:, first : first + 100] for x in folds))
    assert moments.count == 250
    for fold in range(4):
        alone = added([x[fold] for x in folds], [250], **PAIRS)
        for i, j in ((0, 1), (1, 0), (1, 1), (0, 2)):
            torch.testing.assert_close(moments.covariance(i, j)[fold], alone.covariance(i, j), rtol=1e-11, atol=1e-14)
            torch.testing.assert_close(moments.correlation(i, j)[fold], alone.correlation(i, j), rtol=1e-11, atol=0)
            torch.testing.assert_close(moments.cosine(i, j)[fold], alone.cosine(i, j), rtol=1e-12, atol=0)
