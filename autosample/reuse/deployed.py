"""What every inference module that stands for a layer tells about itself."""

from torch import nn


class Deployed(nn.Module):
    """An inference module that `autosample.deploy` puts in the place of a layer, because it computes it faster."""

    @property
    def dense_weights(self) -> int:
        """Weights of the dense layer that this module stands for, without its bias."""
        raise NotImplementedError

    @property
    def stored_weights(self) -> int:
        """Numbers that this module holds in place of these weights."""
        raise NotImplementedError

    @property
    def other_numbers(self) -> int:
        """Numbers besides, which the dense layer has as well: the bias and the like."""
        raise NotImplementedError

    @property
    def ratio(self) -> float:
        """How many times fewer numbers this module holds than the dense layer has weights."""
        return self.dense_weights / max(self.stored_weights, 1)
