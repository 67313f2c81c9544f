"""The sampling rule itself: `W[n, g, κ, q] = sign[n, g]·gain[n, g]·Φ[o[n, g] + κ, q]`."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from autosample.sampling.columns import Columns
from autosample.sampling.geometry import Geometry
from autosample.sampling.windows import Placement, cut_windows


def sample_weight(
    summary: Float[Tensor, "l q"],
    geometry: Geometry,
    placement: Placement,
    *,
    columns: Columns | None = None,
    factors: Float[Tensor, "n #g"] | None = None,
) -> Float[Tensor, "n m *kernel"]:
    """The dense weight that a summary gives, shape `(sampled, M, *kernel)`.

    Args:
        summary: `Φ`, shape `(L, Q)`.
        geometry: Sizes and layout of the layer.
        placement: Placement of the windows, `(N, G)`.
        columns: Channel selection; `None` is WSNet's `m mod Q`.
        factors: Signs times gains, per window `(N, G)` or per filter `(N, 1)`.
    """
    if columns is not None:
        placement = by_group(placement, summary.shape[0])
        summary = columns.widen(summary)
    windows = cut_windows(summary, placement, geometry.window)
    if factors is not None:
        windows = windows * factors[:, :, None, None].to(windows.dtype)
    return geometry.to_weight(windows)


def by_group(placement: Placement, length: int) -> Placement:
    """The same placement in a widened summary, in which window `g` reads from row `g·L` on."""
    shift = torch.arange(placement.base.shape[1], device=placement.base.device) * length
    return replace(placement, base=placement.base + shift)
