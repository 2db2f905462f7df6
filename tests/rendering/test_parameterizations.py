"""Parameterizations make images as lucent does; one test runs over all; a unit's start is its own."""

import textwrap
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from lucent.optvis import param
from lucent.optvis.param.color import color_correlation_normalized, to_valid_rgb
from lucent.optvis.param.spatial import fft_image
from torch import nn

import featviz
from featviz.config import PARAMETERIZATIONS, RenderConfig
from featviz.errors import RenderError
from featviz.rendering import (
    IMAGENET_MATRIX,
    Fourier,
    Maco,
    Pixel,
    color_matrix,
    magnitude_profile,
    parameterization,
    recorrelate,
    render,
    seeded_starts,
)
from featviz.rendering.image import parameterizations
from featviz.rendering.image.maco import CONTRAST
from featviz.rendering.image.parameterizations import parameterization_class
from featviz.rendering.image.spectrum import frequency_scale, profile_scale


@pytest.fixture(autouse=True, scope="module")
def coarse() -> Iterator[None]:
    """The example of the documentation, as a user registers it."""

    _, example = str(parameterizations.__doc__).split("make images of them:\n")
    exec(textwrap.dedent(example.split("    featviz.render(")[0]), {})
    yield
    PARAMETERIZATIONS.remove("coarse")


ALL = [*PARAMETERIZATIONS, "coarse"]


def made(name: str, keys: list, channels: int = 3, size: tuple[int, int] = (9, 12), sd: float = 1.0):
    config = RenderConfig(size=size, parameterization=name, sd=sd)
    return parameterization(seeded_starts(config, keys, channels, dtype=torch.float64).values, config)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [(9, 12), (12, 9), (16, 16)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_parameterization_gives_images_in_range(name, size, channels):
    images = made(name, [0, 1], channels, size)()
    assert images.shape == (2, channels, *size)
    assert images.dtype == torch.float64
    assert (images > 0).all()
    assert (images < 1).all()
    assert images.std() > 0.01


@pytest.mark.parametrize("name", ALL)
def test_every_unit_of_every_parameterization_moves_its_own_image_alone(name):
    both, alone = made(name, ["a", "b"]), made(name, ["b"])
    images = both()
    torch.testing.assert_close(
        images[1], alone()[0], rtol=0, atol=1e-14
    )  # some processors round by the place in memory
    weights = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((images[1] * weights).sum(), both.values)
    assert (gradient[0] == 0).all()
    assert gradient[1].abs().max() > 0


@pytest.mark.parametrize("name", ALL)
def test_every_parameterization_raises_the_score_and_the_same_seed_gives_the_same_image(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    config = RenderConfig(size=16, steps=12, parameterization=name)
    first, second = (render(model, "2:0-3", config) for _ in range(2))
    assert torch.equal(first.images, second.images)
    assert (first.score > first.trace[0]).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_start_from_an_image_gives_that_image_or_a_reason(name, channels):
    config = RenderConfig(size=(9, 12), parameterization=name)
    photographs = torch.rand(2, channels, 9, 12, dtype=torch.float64)
    photographs[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    if name in ("fourier", "pixel"):
        images = parameterization(parameterization_class(config).start_from(photographs, config), config)()
        torch.testing.assert_close(images, photographs.clamp(1 / 512, 511 / 512), atol=1e-9, rtol=0)
    else:
        with pytest.raises(RenderError, match="cannot start from an image"):
            parameterization_class(config).start_from(photographs, config)


@pytest.mark.parametrize("name", ["fourier", "pixel"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(9, 12), (12, 9)])
def test_less_their_excess_colors_end_where_saturation_begins(name, channels, size):
    painter = made(name, [0, 1], channels, size, sd=30.0 if name == "fourier" else 6.0)
    images = painter().detach().clamp(1 / 512, 511 / 512)
    before = images.logit()
    assert (before.abs() > 3.5).float().mean() > 0.1
    config = RenderConfig(size=size, parameterization=name)
    at_limit = parameterization(painter.start_from(images, config), config)
    with torch.no_grad():
        at_limit.values -= at_limit.excess(images)
    torch.testing.assert_close(at_limit().detach(), before.clamp(-3.5, 3.5).sigmoid(), atol=1e-9, rtol=0)


def test_where_no_values_belong_to_an_image_there_is_no_excess():
    for name in ("maco", "coarse"):
        painter = made(name, [0, 1], sd=30.0)
        assert painter.excess(painter().detach()) is None


def test_the_excess_of_gray_data_is_finite():
    """Its color matrix has no inverse."""
    matrix = color_matrix([torch.rand(2, 1, 4, 4).expand(-1, 3, -1, -1)])
    config = RenderConfig(size=8, parameterization="pixel", color=matrix)
    painter = parameterization(100 * torch.randn(1, 3, 8, 8), config)
    excess = painter.excess(painter().detach())
    assert excess is not None
    assert excess.isfinite().all()
    assert excess.abs().max() > 0


def test_names_are_refused_that_are_taken_or_not_registered():
    with pytest.raises(RenderError, match="register yours by another name"):
        featviz.register_parameterization("fourier")(type("Mine", (featviz.Parameterization,), {}))
    with pytest.raises(RenderError, match="subclass featviz"):
        featviz.register_parameterization("mine")(nn.Module)  # pyright: ignore
    with pytest.raises(RenderError, match="use one of fourier, pixel, maco, coarse"):
        RenderConfig(parameterization="mine")


def test_a_config_from_a_process_that_registered_more_is_refused(monkeypatch):
    monkeypatch.setattr("featviz.config.PARAMETERIZATIONS", ["elsewhere"])
    config = RenderConfig(size=8, parameterization="elsewhere")
    with pytest.raises(RenderError, match="import the module that registers it"):
        seeded_starts(config, [0], 3)


def test_a_name_registered_again_stands_for_the_newer_class():
    class Older(Pixel):
        pass

    class Newer(Pixel):
        pass

    featviz.register_parameterization("again")(Older)
    featviz.register_parameterization("again")(Newer)
    assert parameterization_class(RenderConfig(parameterization="again")) is Newer
    assert PARAMETERIZATIONS.count("again") == 1
    PARAMETERIZATIONS.remove("again")


def by_numpy(spectrum: np.ndarray, size: tuple[int, int], decay: float, matrix: np.ndarray | None) -> np.ndarray:
    """The images written out slowly: real part of the sum over the full, Hermitian spectrum."""
    h, w = size
    fy, fx = np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[None, : w // 2 + 1]
    scale = 1 / np.maximum(np.sqrt(fy**2 + fx**2), 1 / max(h, w)) ** decay
    z = (spectrum[..., 0] + 1j * spectrum[..., 1]) * scale
    y, x = np.arange(h), np.arange(w)
    out = np.zeros((*spectrum.shape[:2], h, w))
    for ky in range(h):
        for kx in range(w // 2 + 1):
            twice = 1 if kx == 0 or (w % 2 == 0 and kx == w // 2) else 2  # a column stands for its mirror image too
            wave = np.exp(2j * np.pi * (ky * y[:, None] / h + kx * x[None] / w))
            out += twice * (z[..., ky, kx, None, None] * wave).real
    out /= np.sqrt(h * w) * 4
    if matrix is not None:
        out = np.einsum("ij,bjhw->bihw", matrix, out)
    return 1 / (1 + np.exp(-out))


@pytest.mark.parametrize(("h", "w"), [(16, 16), (12, 20), (20, 12), (9, 15), (16, 7)])
def test_fourier_agrees_with_lucent_on_the_same_spectrum(h, w):
    torch.manual_seed(0)
    params, image_f = fft_image([2, 3, h, w], sd=1.0)
    theirs = to_valid_rgb(image_f, decorrelate=True)().detach().cpu()
    # lucent keeps one more column at odd widths and cuts it off in the inverse transform
    start = params[0].detach().cpu()[..., : w // 2 + 1, :]
    ours = Fourier(start, RenderConfig(size=(h, w), decay=1.0))()
    assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize(("h", "w"), [(6, 6), (5, 8), (8, 5), (7, 7), (1, 4), (4, 1)])
@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5])
def test_fourier_agrees_with_the_sum_over_all_waves(h, w, decay):
    torch.manual_seed(1)
    start = torch.randn(2, 3, h, w // 2 + 1, 2, dtype=torch.float64)
    matrix = np.array(IMAGENET_MATRIX)
    ours = Fourier(start, RenderConfig(size=(h, w), decay=decay))()
    np.testing.assert_allclose(ours.detach().numpy(), by_numpy(start.numpy(), (h, w), decay, matrix), atol=1e-12)


def test_pixels_agree_with_lucent():
    torch.manual_seed(0)
    params, image_f = param.image(10, 8, sd=1.0, batch=2, fft=False)
    ours = Pixel(params[0].detach().cpu(), RenderConfig(size=(10, 8)))()
    assert (ours - image_f().detach().cpu()).abs().max() < 1e-6


def test_the_color_matrix_of_imagenet_is_lucents():
    np.testing.assert_allclose(np.array(IMAGENET_MATRIX), color_correlation_normalized, atol=1e-7)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_channel_counts_have_no_color_matrix(channels):
    config = RenderConfig(size=(6, 8), sd=1.0)
    start = seeded_starts(config, [0], channels).values
    images = parameterization(start, config)()
    assert images.shape == (1, channels, 6, 8)
    assert torch.equal(images, parameterization(start, RenderConfig(size=(6, 8), sd=1.0, color=None))())


def test_recorrelate_multiplies_every_pixel_by_the_matrix():
    x, matrix = torch.randn(2, 3, 4, 5), torch.randn(3, 3)
    torch.testing.assert_close(recorrelate(x, matrix)[1, :, 2, 3], matrix @ x[1, :, 2, 3])


def test_color_matrix_finds_the_matrix_that_colored_the_data():
    torch.manual_seed(0)
    # orthogonal columns, as a matrix U sqrt(S) has them
    basis = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    true = basis * torch.tensor([1.0, 0.3, 0.1])
    true = true * torch.where(true[0] < 0, -1.0, 1.0)
    batches = [recorrelate(torch.randn(4, 3, 100, 100, dtype=torch.float64), true) + 5 for _ in range(3)]
    found = torch.tensor(color_matrix([(batch, torch.zeros(4)) for batch in batches]), dtype=torch.float64)
    torch.testing.assert_close(found, true, atol=0.01, rtol=0)
    split = [part for batch in batches for part in batch.split(1)]
    torch.testing.assert_close(torch.tensor(color_matrix(split), dtype=torch.float64), found, atol=1e-9, rtol=0)


@pytest.mark.parametrize("data", [[], [torch.rand(2, 1, 4, 4)], [torch.rand(3, 4, 4)], [torch.full((2, 3, 4, 4), 0.5)]])
def test_color_matrix_refuses_data_without_color(data):
    with pytest.raises(RenderError):
        color_matrix(data)


def test_a_units_start_does_not_depend_on_its_batch_mates():
    config = RenderConfig(size=8, steps=3)
    together = seeded_starts(config, [("a", 1), ("a", 2), ("b", 1)], 3)
    alone = seeded_starts(config, [("b", 1)], 3)
    assert torch.equal(together.values[2], alone.values[0])
    assert torch.equal(together.warps[:, 2], alone.warps[:, 0])
    assert not torch.equal(together.values[0], together.values[1])
    assert not torch.equal(together.warps[:, 0], together.warps[:, 2])


def test_seed_and_restart_change_the_start_and_precision_does_not():
    config = RenderConfig(size=8, steps=3)
    first = seeded_starts(config, ["u"], 3, dtype=torch.float64)
    assert not torch.equal(first.values, seeded_starts(config, ["u"], 3, restart=1, dtype=torch.float64).values)
    assert not torch.equal(
        first.values, seeded_starts(RenderConfig(size=8, steps=3, seed=1), ["u"], 3, dtype=torch.float64).values
    )
    assert torch.equal(first.values.float(), seeded_starts(config, ["u"], 3).values)


def test_a_start_is_the_same_on_every_machine():
    config = RenderConfig(size=8, steps=2, sd=1.0, jitter=1 / 16, scale=0.1, rotation=10.0, final_range=1)
    drawn = seeded_starts(config, [("layer1.conv", 3)], 3, dtype=torch.float64)
    assert drawn.values.flatten()[:3].tolist() == pytest.approx(
        [-0.28816621663178, -0.35693568766053, 0.39983556375248], abs=1e-12
    )
    assert drawn.warps[1, 0].tolist() == pytest.approx(
        [-0.00226942527706, -0.05556718498245, 0.97814869892935, 9.93301648583337], abs=1e-12
    )


def test_the_warps_of_a_short_ascent_are_the_first_of_a_long_one_at_any_size():
    short = seeded_starts(RenderConfig(size=8, steps=5), ["u"], 3).warps
    assert torch.equal(short, seeded_starts(RenderConfig(size=16, steps=50), ["u"], 1).warps[:5])
    assert seeded_starts(RenderConfig(size=8, steps=0), ["u"], 3).warps.shape == (1, 1, 4)


def test_warps_stay_in_their_ranges():
    config = RenderConfig(size=8, steps=500, jitter=0.2, scale=0.3, rotation=40.0, final_range=1)
    warps = seeded_starts(config, ["u", "v"], 3).warps
    for column, (low, high) in enumerate([(-0.2, 0.2), (-0.2, 0.2), (0.7, 1.3), (-40.0, 40.0)]):
        values = warps[..., column]
        assert low <= values.min() < low + 0.1 * (high - low)
        assert high >= values.max() > high - 0.1 * (high - low)


def test_warps_narrow_to_their_final_range_over_64_steps():
    config = RenderConfig(size=8, steps=200, jitter=0.2, scale=0.3, rotation=40.0, final_range=0.25)
    warps = seeded_starts(config, ["u"], 3, dtype=torch.float64).warps
    wide = seeded_starts(replace(config, final_range=1), ["u"], 3, dtype=torch.float64).warps
    identity = torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    shares = ((warps - identity) / (wide - identity))[:, 0]
    for step, share in [(0, 1.0), (32, 0.625), (64, 0.25), (199, 0.25)]:
        torch.testing.assert_close(shares[step], torch.full((4,), share, dtype=torch.float64))


def test_replaced_units_are_those_of_the_other_starts():
    config = RenderConfig(size=8, steps=3)
    first, second = seeded_starts(config, ["a", "b", "c"], 3), seeded_starts(config, ["c", "a"], 3, restart=2)
    mixed = first.replace([2, 0], second)
    assert mixed.restart.tolist() == [2, 0, 2]
    assert torch.equal(mixed.values[0], second.values[1])
    assert torch.equal(mixed.warps[:, 2], second.warps[:, 0])
    assert torch.equal(mixed.values[1], first.values[1])
    assert torch.equal(mixed.select([1]).warps, first.select([1]).warps)


@pytest.mark.parametrize(("h", "w"), [(16, 16), (9, 12), (12, 9)])
def test_maco_holds_the_magnitudes_whatever_the_phases(h, w):
    torch.manual_seed(0)
    config = RenderConfig(size=(h, w), parameterization="maco", color=None, decay=1.0)
    images = Maco(torch.randn(2, 3, h, w // 2 + 1, 2, dtype=torch.float64), config)
    assert isinstance(parameterization(torch.randn(1, 3, h, w // 2 + 1, 2), config), Maco)
    before = images().detach().logit() / CONTRAST
    with torch.no_grad():
        images.values += torch.randn_like(images.values)
    after = images().detach().logit() / CONTRAST
    assert (before - after).abs().max() > 0.1
    fy, fx = np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)
    wanted = 1 / np.maximum(np.hypot(fy, fx), 1 / max(h, w))
    inner = (slice(None), slice(None), slice(None), slice(1, (w - 1) // 2 + 1))  # columns that are free of the mirror
    for x in (before, after):
        found = np.abs(np.fft.rfft2(x.numpy(), norm="ortho"))[inner]
        ratio = found / wanted[None, None][..., 1 : (w - 1) // 2 + 1]
        np.testing.assert_allclose(ratio / ratio.mean((-2, -1), keepdims=True), 1, atol=1e-9)
        np.testing.assert_allclose(x.numpy().std((-2, -1)), 1, atol=1e-9)


def test_a_magnitude_profile_is_that_of_the_data():
    """Noise shaped by 1/f**1.5 gives back its slope; the profile then shapes Maco's images, at another size too."""
    size = (64, 64)
    f = frequency_scale(size, 1.5)
    generator = torch.Generator().manual_seed(0)
    phases = torch.rand(200, 1, *f.shape, generator=generator, dtype=torch.float64) * 2 * torch.pi
    x = torch.fft.irfft2(torch.polar(f.expand_as(phases), phases), s=size)
    profile = magnitude_profile([x[:100], (x[100:], torch.zeros(100))], entries=17)
    at = np.linspace(0, 0.5**0.5, 17)
    slope = np.polyfit(np.log(at[3:10]), np.log(profile[3:10]), 1)[0]
    assert abs(slope + 1.5) < 0.15
    assert max(profile) == 1
    values = profile_scale((20, 28), profile)
    assert values[0, 4] == pytest.approx(np.interp(4 / 28, at, profile))


@pytest.mark.parametrize("data", [[], [torch.zeros(2, 3, 8, 8)], [torch.rand(2, 3)]])
def test_a_profile_without_images_is_refused(data):
    with pytest.raises(RenderError, match=r"give real images|holds no images|yielded no batch"):
        magnitude_profile(data)


def test_a_profile_of_nonsense_is_refused():
    with pytest.raises(RenderError, match="two or more"):
        RenderConfig(profile=(1.0, float("nan")))
