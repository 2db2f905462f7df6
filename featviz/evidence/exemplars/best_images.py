"""The images that excite each unit most, and how the activations are distributed over images: streaming, of bounded size."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

BINS = 512
HELD = 512  # images whose values a histogram holds before it counts them
Maps = Callable[[Tensor, Tensor], Tensor]


class BestImages:
    """The k images with the largest maximum of each unit, the position of that maximum, equal to a full sort.

    Of equal activations the image with the smaller number comes first; of equal positions the first in row order.

    Args:
        k: images per unit. per_label: at most so many of one label; the images then need labels. None: any number.

    Attributes:
        value: (k, unit) largest activation of the image, descending; minus infinity where there are fewer than k images.
        image, position, label: (k, unit) image number, flat position, label (-1 where there are none); image -1 where there
            are fewer than k.
    """

    def __init__(self, k: int, per_label: int | None = None) -> None:
        self.k, self.per_label = k, per_label
        self._by_label: dict[int, _Top] = {}

    def add(self, maxima: Tensor, maps: Maps, numbers: Tensor, labels: Tensor | None = None) -> None:
        """Take in images.

        Args:
            maxima: (image, unit) largest activation over positions.
            maps: rows of `maxima` (n,), units (n,) -> their activations (n, position).
            numbers: (image,) ascending. labels: (image,).
        """
        if self.per_label is None:
            self._by_label.setdefault(-1, _Top(self.k)).add(maxima, maps, numbers, labels)
            return
        assert labels is not None
        for label in labels.unique().tolist():
            chosen = (labels == label).nonzero().squeeze(1)
            top = self._by_label.setdefault(label, _Top(min(self.k, self.per_label)))
            of_label = partial(_maps_of_rows, maps, chosen)
            top.add(maxima[chosen], of_label, numbers[chosen], labels[chosen])

    def result(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """value, image, position, label: each (k, unit), on the CPU."""
        tops = list(self._by_label.values())
        value, image, position, label = (
            torch.cat([getattr(top, name) for top in tops]) for name in ("value", "image", "position", "label")
        )
        by_number = image.sort(dim=0, stable=True).indices
        by_value = value.gather(0, by_number).sort(dim=0, descending=True, stable=True).indices[: self.k]
        order = by_number.gather(0, by_value)
        value, image, position, label = (x.gather(0, order).cpu() for x in (value, image, position, label))
        missing = value == -torch.inf
        few = (0, 0, 0, self.k - len(value))
        image, position, label = (F.pad(x.masked_fill(missing, -1), few, value=-1) for x in (image, position, label))
        return F.pad(value, few, value=-torch.inf), image, position, label


class _Top:
    """The k best of one set of images."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.value = self.image = self.position = self.label = torch.empty(0)

    def add(self, best: Tensor, maps: Maps, numbers: Tensor, labels: Tensor | None) -> None:
        units = best.shape[1]
        if not self.value.numel():
            self.value = torch.full((self.k, units), -torch.inf, dtype=best.dtype, device=best.device)
            self.image = torch.full((self.k, units), 2**62, dtype=torch.int64, device=best.device)
            self.position, self.label = (torch.full_like(self.image, -1) for _ in "pl")
        changed = ((best > self.value[-1]) | best.isnan()).any(0).nonzero().squeeze(1)
        if not len(changed):
            return
        value, image, position, label = (x[:, changed] for x in (self.value, self.image, self.position, self.label))
        candidates = torch.cat([value, best[:, changed]])
        order = candidates.sort(dim=0, descending=True, stable=True).indices[: self.k]
        new = order >= self.k
        rows = (order - self.k).clamp_min(0)
        ranks, columns = new.nonzero(as_tuple=True)
        old = order.clamp_max(self.k - 1)
        given = torch.full_like(numbers, -1) if labels is None else labels
        position = position.gather(0, old)
        position[ranks, columns] = _first_argmax(maps(rows[ranks, columns], changed[columns]))
        self.value[:, changed] = candidates.gather(0, order)
        self.image[:, changed] = torch.where(new, numbers[rows], image.gather(0, old))
        self.label[:, changed] = torch.where(new, given[rows], label.gather(0, old))
        self.position[:, changed] = position


def _maps_of_rows(maps: Maps, rows: Tensor, images: Tensor, units: Tensor) -> Tensor:
    return maps(rows[images], units)


def _first_argmax(rows: Tensor) -> Tensor:
    """(row,) of the first largest value; `argmax` may give any of equal ones."""
    return (rows == rows.amax(-1, keepdim=True)).to(torch.uint8).argmax(-1)


class Histogram:
    """Counts of a value per unit over images, in bins whose range doubles when a value lies outside it.

    All values are counted, and the size is fixed. A bin is at most 1/128 of the range of the values.

    Args:
        held: images whose values are held before they are counted together.
    """

    def __init__(self, held: int = HELD) -> None:
        self.count = 0
        self._most_held = held
        self._low = self._width = self._counts = torch.empty(0)
        self._held: list[Tensor] = []

    def add(self, values: Tensor) -> None:
        """Values (image, unit)."""
        self._held.append(values.detach())
        if sum(len(held) for held in self._held) >= self._most_held:
            self._count_held()

    def _count_held(self) -> None:
        if not self._held:
            return
        values = torch.cat(self._held).double()
        self._held = []
        if not self.count:
            self._low, high = values.amin(0), values.amax(0)
            tiny = torch.maximum(1e-9 * torch.maximum(self._low.abs(), high.abs()), torch.full_like(high, 1e-12))
            self._width = torch.maximum((high - self._low) * (1 + 1e-9), tiny) / BINS
            self._counts = torch.zeros(values.shape[1], BINS, dtype=torch.int64, device=values.device)
        self._cover(values.amin(0), values.amax(0))
        bins = ((values - self._low) / self._width).floor().long().clamp(0, BINS - 1).T
        self._counts.scatter_add_(1, bins, torch.ones_like(bins))
        self.count += len(values)

    def _cover(self, low: Tensor, high: Tensor) -> None:
        """Double the width of bins, upwards or downwards, until the range holds the values."""
        while True:
            above = (high >= self._low + BINS * self._width) & high.isfinite()
            below = (low < self._low) & low.isfinite()
            wide = above | below
            if not bool(wide.any()):
                return
            paired = self._counts.view(-1, BINS // 2, 2).sum(2)
            empty = torch.zeros_like(paired)
            upwards, downwards = torch.cat([paired, empty], 1), torch.cat([empty, paired], 1)
            merged = torch.where(below[:, None], downwards, upwards)
            self._counts = torch.where(wide[:, None], merged, self._counts)
            self._low = torch.where(below, self._low - BINS * self._width, self._low)
            self._width = torch.where(wide, 2 * self._width, self._width)

    def edges(self) -> Tensor:
        """(unit, BINS + 1) edges of the bins."""
        self._count_held()
        return self._low[:, None] + self._width[:, None] * torch.arange(BINS + 1, device=self._low.device)

    def counts(self) -> Tensor:
        """(unit, BINS) numbers of images."""
        self._count_held()
        return self._counts

    def share_below(self, values: Tensor) -> Tensor:
        """Share of images (..., unit) with a smaller value, in [0, 1]; within a bin they are taken as spread evenly."""
        self._count_held()
        at = (values.double() - self._low) / self._width
        bins = at.floor().long().clamp(0, BINS - 1)
        cumulated = torch.cat([torch.zeros_like(self._counts[:, :1]), self._counts.cumsum(1)], 1)
        flat = bins.reshape(-1, bins.shape[-1]).T
        before, here = cumulated.gather(1, flat).T.view_as(bins), self._counts.gather(1, flat).T.view_as(bins)
        return ((before + here * (at - bins).clamp(0, 1)) / self.count).clamp(0, 1)

    def quantile(self, share: float) -> Tensor:
        """(unit,) the value below which a share of the images lies, exact to a bin."""
        self._count_held()
        cumulated = self._counts.cumsum(1).double()
        wanted = torch.full_like(cumulated[:, :1], share * self.count)
        bins = torch.searchsorted(cumulated, wanted).clamp_max(BINS - 1)
        here, before = self._counts.gather(1, bins), cumulated.gather(1, bins) - self._counts.gather(1, bins)
        within = ((wanted - before) / here.clamp_min(1)).clamp(0, 1)
        return self._low + self._width * (bins + within).squeeze(1)
