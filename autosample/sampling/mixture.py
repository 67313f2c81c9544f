"""Signs of folds that depend on the example: a small learner mixes the folds of several blocks.

`W[n, g, κ, q] = M[b(n), g] · Φ[o[n] + κ, q]` with `M[b] = H[b] + Σ_e a_e · H[b + e]`, rows of `H` counted in a circle.
The shares `a_e`, from −1 to 1, follow from the means of the example's channel groups. So a layer has a weight for each
example (Chen et al. 2020, dynamic convolution). As in KernelWarehouse (Li et al. 2024), shares have both signs. The
convolution is linear in `M`, so it costs what it costs with fixed signs. At the start all shares are 0.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from autosample.coding.fixed import at_steps, from_steps, to_steps
from autosample.sampling.folds import Folds, hadamard


class Mixture(nn.Module):
    """The learner of a layer: means of channel groups, standardised, then two linear layers with a ReLU and a tanh.

    It computes in the precision of the means, float32 at least.

    Args:
        folds: The layer's; all its convolution groups share the learner, and each has shares of its own.
        experts: Folds that are mixed for a block, at least 2.
        hidden: Numbers between the two linear layers.
        device: Device for the parameters.
    """

    reader: Tensor
    chooser: Tensor

    def __init__(self, folds: Folds, experts: int, hidden: int, device: torch.device | None = None) -> None:
        super().__init__()
        self.folds, self.experts, self.hidden, self.learns = folds, experts, hidden, True
        self.reader = nn.Parameter(torch.empty(hidden, folds.windows, device=device))
        self.chooser = nn.Parameter(torch.empty(experts - 1, hidden + 1, device=device))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Start again, with the folds of each block alone."""
        nn.init.normal_(self.reader, std=math.sqrt(2 / self.folds.windows))
        nn.init.zeros_(self.chooser)

    def signs(self, dtype: torch.dtype, device: torch.device | None = None) -> Float[Tensor, "e bg"]:
        """`H[b + e]` for all blocks `b`, by `e`: what is mixed."""
        f = self.folds
        rows = torch.arange(self.experts, device=device)[:, None] + torch.arange(f.blocks, device=device)
        return hadamard(rows.reshape(-1), f.windows, dtype).view(self.experts, -1)

    def forward(self, means: Float[Tensor, "r m"], signs: Float[Tensor, "e bg"]) -> Float[Tensor, "r b g"]:
        """`M` for each row of `means`, from what `signs` returned."""
        kind = means.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return self._mixed(means, signs)
        return self._mixed(means, signs)

    def _mixed(self, means: Float[Tensor, "r m"], signs: Float[Tensor, "e bg"]) -> Float[Tensor, "r b g"]:
        f, x = self.folds, means
        reader, chooser = self.reader.to(x.dtype), self.chooser.to(x.dtype)
        if self.learns:
            reader, chooser = at_steps(reader), at_steps(chooser)
        if surplus := f.windows * f.columns - f.channels:
            x = F.pad(x, (0, surplus))
        strengths = F.layer_norm(x.view(-1, f.windows, f.columns).mean(-1), (f.windows,))
        hidden = F.relu(F.linear(strengths, reader))
        shares = torch.tanh(F.linear(hidden, chooser[:, :-1], chooser[:, -1]))
        own = torch.ones_like(shares[:, :1])
        return (torch.cat([own, shares], 1) @ signs.to(x.dtype)).view(-1, f.blocks, f.windows)

    def packed(self) -> dict[str, Tensor]:
        """The numbers as a file holds them."""
        return {name: to_steps(getattr(self, name)) for name in ("reader", "chooser")}

    def stored_bits(self) -> int:
        """Bits of these numbers."""
        return 16 * (self.reader.numel() + self.chooser.numel())

    def fixed(self, stored: Mapping[str, Tensor]) -> "Mixture":
        """A learner with the numbers of `packed`, that learns no more."""
        made = Mixture(self.folds, self.experts, self.hidden, torch.device("meta"))
        made.learns = False
        for name in ("reader", "chooser"):
            del made._parameters[name]
            made.register_buffer(name, from_steps(stored[name]))
        return made


def mean_maps(x: Float[Tensor, "batch c *size"], folds: Folds) -> Float[Tensor, "r m"]:
    """The mean of each channel of a convolution's input, one row per example and convolution group."""
    parts = x.reshape(x.shape[0] * folds.groups, folds.channels, -1)
    return parts.mean(-1, dtype=torch.promote_types(x.dtype, torch.float32))


def mean_rows(x: Float[Tensor, "*batch m"], folds: Folds) -> Float[Tensor, "r m"]:
    """The mean of each feature of a linear layer's input, one row per example (along the first axis)."""
    parts = x.reshape(x.shape[0] if x.dim() > 1 else 1, -1, folds.channels)
    return parts.mean(1, dtype=torch.promote_types(x.dtype, torch.float32))
