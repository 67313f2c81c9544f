"""A compressed layer of somebody else's: two thin matrices in place of a weight."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from autosample.nn import Compressed
from autosample.sampling import RuleOptions
from autosample.system.difference import relative_error


@dataclass(frozen=True, kw_only=True)
class LowRankOptions(RuleOptions):
    """How many columns the left matrix has at least."""

    least: int = 1


class LowRank(Compressed):
    """`W = left @ right`, with as many columns as the ratio allows."""

    Options = LowRankOptions
    coded = ("left", "right")
    prefix = "LowRank"

    @classmethod
    def rank(cls, spec, shape):
        filters, rest = shape[0], math.prod(shape[1:])
        return max(spec.settings.least, int(filters * rest / (spec.ratio or 1) / (filters + rest)))

    @classmethod
    def planned(cls, spec, shape, bits=32):
        return cls.rank(spec, shape) * (shape[0] + math.prod(shape[1:]))

    def make(self, like, name):
        rank = self.rank(self.spec, self.shape)
        self.left = nn.Parameter(like.new_empty(self.shape[0], rank))
        self.right = nn.Parameter(like.new_empty(rank, math.prod(self.shape[1:])))
        self.reset_parameters()

    def reset_parameters(self):
        if not self.left.is_meta:
            nn.init.orthogonal_(self.left)
            nn.init.orthogonal_(self.right)

    def compose(self, tensors):
        return (tensors["left"] @ tensors["right"]).view(self.shape)

    @torch.no_grad()
    def fit_(self, weight):
        u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        rank = self.left.shape[1]
        self.left.copy_(u[:, :rank] * s[:rank])
        self.right.copy_(v[:rank])
        self.fit_error = relative_error(weight, self.weight)
        return self.fit_error
