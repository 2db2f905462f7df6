"""One resample does shift, zoom, rotation and resize, with pixel centres where they belong."""

import math

import numpy as np
import pytest
import torch

from featviz.rendering import warp

NEUTRAL = [0.0, 0.0, 1.0, 0.0]


def row(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def slow_warp(image: np.ndarray, parameters: list[float], out_size: tuple[int, int], border: str, fill: np.ndarray):
    """Pixel by pixel: where does the output pixel's centre come from, and what is there?"""
    c, h, w = image.shape
    dx, dy, scale, angle = parameters[0] * w, parameters[1] * h, parameters[2], math.radians(parameters[3])
    out = np.zeros((c, *out_size))

    def value(i: int, j: int) -> np.ndarray:
        if border == "zeros":
            return image[:, i, j] if 0 <= i < h and 0 <= j < w else fill
        if border == "border":
            return image[:, min(max(i, 0), h - 1), min(max(j, 0), w - 1)]
        i, j = i % (2 * h), j % (2 * w)  # reflection about the edges of the image
        return image[:, i if i < h else 2 * h - 1 - i, j if j < w else 2 * w - 1 - j]

    for i in range(out_size[0]):
        for j in range(out_size[1]):
            # centre of the output pixel, on the canvas, about the canvas' centre, before the shift
            x = (j + 0.5) * w / out_size[1] - w / 2 - dx
            y = (i + 0.5) * h / out_size[0] - h / 2 - dy
            u = (math.cos(angle) * x + math.sin(angle) * y) / scale + w / 2 - 0.5
            v = (-math.sin(angle) * x + math.cos(angle) * y) / scale + h / 2 - 0.5
            a, b = math.floor(v), math.floor(u)
            p, q = v - a, u - b
            out[:, i, j] = (1 - p) * ((1 - q) * value(a, b) + q * value(a, b + 1)) + p * (
                (1 - q) * value(a + 1, b) + q * value(a + 1, b + 1)
            )
    return out


@pytest.mark.parametrize("border", ["reflection", "border", "zeros"])
@pytest.mark.parametrize("out_size", [(8, 8), (9, 12), (5, 4), (16, 16)])
def test_warp_agrees_with_a_slow_reference(border, out_size):
    torch.manual_seed(0)
    images = torch.rand(3, 2, 8, 10, dtype=torch.float64)
    parameters = [[0.1, -0.2, 1.2, 15.0], [-0.3, 0.05, 0.8, -70.0], [0.0, 0.0, 1.0, 180.0]]
    fill = torch.tensor([0.3, 0.6], dtype=torch.float64)
    warped = warp(images, row(*parameters), out_size, border, fill)
    for image, values, found in zip(images, parameters, warped, strict=True):
        np.testing.assert_allclose(
            found.numpy(), slow_warp(image.numpy(), values, out_size, border, fill.numpy()), atol=1e-9
        )


@pytest.mark.parametrize("border", ["reflection", "border", "zeros"])
@pytest.mark.parametrize("size", [(8, 8), (7, 12)])
def test_a_neutral_row_gives_the_image_back(border, size):
    images = torch.rand(2, 3, *size)
    torch.testing.assert_close(
        warp(images, row(NEUTRAL, NEUTRAL).float(), size, border, 0.4), images, atol=1e-5, rtol=0
    )


def test_shift_is_a_fraction_of_the_side_to_the_right_and_down():
    images = torch.zeros(1, 1, 8, 16, dtype=torch.float64)
    images[0, 0, 2, 3] = 1
    moved = warp(images, row([2 / 16, 1 / 8, 1.0, 0.0]), (8, 16), "zeros")
    assert moved[0, 0, 3, 5] == pytest.approx(1)


def test_a_canvas_of_twice_the_input_is_averaged_by_pairs():
    images = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    halved = warp(images, row(NEUTRAL), (4, 4), "reflection")
    torch.testing.assert_close(halved, torch.nn.functional.avg_pool2d(images, 2))


def test_every_image_is_warped_by_its_own_row():
    images = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    rows = row([0.1, 0.0, 1.1, 5.0], [-0.2, 0.3, 0.9, -8.0])
    both = warp(images, rows, (6, 6))
    torch.testing.assert_close(both[1:], warp(images[1:], rows[1:], (6, 6)))


def test_the_gradient_passes_the_warp():
    images = torch.rand(1, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    rows = row([0.07, -0.11, 1.05, 7.0])
    assert torch.autograd.gradcheck(lambda x: warp(x, rows, (4, 6), "reflection"), images)
