"""Images of any number of channels can be looked at."""

import numpy as np
import pytest

from featviz.errors import OutputError
from featviz.gallery.bands import bands_explained, drawable


def test_gray_and_color_images_stay_as_they_are():
    for channels in (1, 3):
        image = np.random.default_rng(0).random((channels, 4, 6))
        assert np.array_equal(drawable(image), image.transpose(1, 2, 0))
        assert bands_explained(None, channels) == ""


@pytest.mark.parametrize(("channels", "across", "down"), [(2, 2, 1), (4, 2, 2), (7, 3, 3)])
def test_every_other_image_is_a_gray_tile_for_each_channel_row_by_row(channels, across, down):
    image = np.stack([np.full((4, 6), channel / 10) for channel in range(channels)])
    shown = drawable(image)
    assert shown.shape == (down * 6 - 2, across * 8 - 2, 1)
    for channel in range(channels):
        top, left = channel // across * 6, channel % across * 8
        assert (shown[top : top + 4, left : left + 6] == channel / 10).all()
    covered = channels * 4 * 6
    assert (shown == 1).sum() == shown.size - covered


def test_three_bands_are_chosen_as_red_green_and_blue():
    image = np.random.default_rng(0).random((7, 4, 6))
    assert np.array_equal(drawable(image, (6, 0, 2)), image[[6, 0, 2]].transpose(1, 2, 0))
    assert "6, 0, 2 of 7" in bands_explained((6, 0, 2), 7)


def test_bands_that_are_not_there_are_named():
    with pytest.raises(OutputError, match="no band 4 in images of 4 channels: they are 0 to 3"):
        drawable(np.zeros((4, 2, 2)), (0, 1, 4))
    with pytest.raises(OutputError, match="1 bands are given: give three"):
        drawable(np.zeros((4, 2, 2)), (0,))
