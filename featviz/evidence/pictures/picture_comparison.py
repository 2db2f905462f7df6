"""What pictures of several subjects have in common: images by the subject's name."""

from collections.abc import Mapping

from torch import Tensor

from featviz.gallery.picture import Picture


class PictureComparison(Picture):
    """A picture with images of several subjects."""

    images: Mapping[str, Tensor]

    @property
    def subjects(self) -> tuple[str, ...]:
        """The names of the subjects."""
        return tuple(self.images)
