"""The input gradient of a strided convolution that reads few channels, as a convolution of stride 1.

gradient (image, out, n, m) -> gradient with respect to the input (image, c, h, w). Pixels whose distance is a multiple of the
stride s are met by the same taps of the kernel: they are one phase of s*s. The small kernels of all phases give s*s*c channels
at once, from the gradient as it lies, and a pixel shuffle (Shi et al. 2016) puts them side by side. A library that computes the
transposed convolution of a stem fills a whole vector register with its 3 channels instead, in two to three times the time.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

FEW = 4  # input channels: from 8 on the library is faster at small kernels


def has_phases(weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int) -> bool:
    """Whether a convolution of `weight` (out, c, kh, kw) is one whose input gradient is quicker by its phases."""
    few = weight.shape[1] <= FEW
    return few and groups == 1 and stride[0] == stride[1] > 1 and all(d == 1 for d in dilation)


class Phases:
    """The kernel of all phases, and where their pixels lie.

    Args:
        weight: of the convolution, (out, c, kh, kw), dilation 1, one group.
        stride: the same along both axes.
        size: of the convolution's input, (image, c, h, w).

    Attributes:
        weight: (c * stride**2, out, ceil(kh / stride), ceil(kw / stride)), of a convolution of stride 1 on the gradient.
        padding: of that convolution.
    """

    def __init__(self, weight: Tensor, stride: int, padding: Sequence[int], size: Sequence[int]) -> None:
        out, c, *kernel = weight.shape
        taps = [-(-k // stride) for k in kernel]
        self._size, self._stride, self._before, self.padding = tuple(size), stride, [], []
        for side, k, p, t in zip(size[2:], kernel, padding, taps, strict=True):
            last = (side + 2 * p - k) // stride + t - 1  # row of the phases that the last tap of the last place meets
            # Rows in the padding are not computed, as many before the image as behind it.
            left_out = min(t - 1, p // stride, max(0, last - (p + side - 1) // stride))
            self._before.append(p - stride * left_out)
            self.padding.append(t - 1 - left_out)
        whole = F.pad(weight, (0, taps[1] * stride - kernel[1], 0, taps[0] * stride - kernel[0]))
        apart = whole.view(out, c, taps[0], stride, taps[1], stride).flip(2, 4)
        self.weight = apart.permute(1, 3, 5, 0, 2, 4).reshape(c * stride**2, out, *taps)

    def together(self, phases: Tensor) -> Tensor:
        """From what that convolution gives to the gradient with respect to the input."""
        x = F.pixel_shuffle(phases, self._stride)
        (top, left), (h, w) = self._before, self._size[2:]
        x = x[:, :, top : top + h, left : left + w]
        return F.pad(x, (0, w - x.shape[3], 0, h - x.shape[2]))  # what no kernel has reached
