"""What every inference module reports about itself."""

from torch import nn

from autosample.system.tracing import keep_whole


class Deployed(nn.Module):
    """An inference module with which `autosample.deploy` replaces a layer, because it is faster."""

    def __init__(self) -> None:
        super().__init__()
        keep_whole(self)

    @property
    def dense_weights(self) -> int:
        """Weights of the dense layer that this module replaces, without its bias."""
        raise NotImplementedError

    @property
    def stored_weights(self) -> int:
        """Numbers that this module holds instead of these weights."""
        raise NotImplementedError

    @property
    def other_numbers(self) -> int:
        """Other numbers, which the dense layer has too, such as the bias."""
        raise NotImplementedError

    @property
    def ratio(self) -> float:
        """Weights of the dense layer divided by the numbers that this module holds."""
        return self.dense_weights / max(self.stored_weights, 1)
