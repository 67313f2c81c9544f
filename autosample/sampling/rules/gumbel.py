"""Choices drawn at random while they are learned: straight-through Gumbel-softmax (Jang et al. 2017, section 2.2)."""

import torch
from jaxtyping import Float
from torch import Tensor

from autosample.sampling.rules.categorical import CategoricalOffsets


class GumbelOffsets(CategoricalOffsets):
    """A categorical choice whose logits get Gumbel noise in training, anew each time a weight is sampled.

    Candidate `c` is drawn with probability `softmax(logits)[c]`; backward it is as `CategoricalOffsets` with the noisy
    logits. In evaluation mode, and once frozen, the best candidate is taken.
    """

    def scores(self) -> Float[Tensor, "n g c"]:
        if not self.training:
            return self.logits
        return self.logits - torch.empty_like(self.logits).exponential_().log()
