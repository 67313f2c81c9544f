"""The small digits bundled with scikit-learn."""

from typing import Any

import torch

from autosample.data.images import SmallImages
from autosample.data.splits import Examples, hold_out
from autosample.system.extras import require


class Digits(SmallImages):
    """The 1,797 grey digits of 8×8 pixels bundled with scikit-learn: 10 classes, no download.

    The set has no official test part. A fixed fifth of each class is the test part; seeds do not change it.

    Args:
        padding, flip, image_size: as in `SmallImages`.
        common: `batch_size`, `val_fraction`, ... of `ClassificationData`; `root` is not used.
    """

    native_shape = (1, 8, 8)
    mean, std = (0.3053,), (0.3761,)

    def __init__(
        self, padding: int = 0, flip: bool = False, image_size: int | None = None, root: str = "", **common: Any
    ) -> None:
        super().__init__(root, padding, flip, image_size, **common)

    def _load(self) -> Examples:
        require("train", "sklearn")
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        x = torch.from_numpy(images / 16).float().view(-1, 1, 8, 8)  # pixels are 0..16
        y = torch.from_numpy(labels).long()
        train, test = hold_out(y, fraction=0.2, seed=0)
        return Examples(x, y, train, test)
