"""Offsets from an index learner that reads the layer's input: NES (Zhou et al. 2020, section 3.2)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from autosample.coding.straight import straight
from autosample.sampling.checks import check_whole
from autosample.sampling.rules.base import Lattice, Offsets, RuleOptions
from autosample.sampling.rules.interpolated import between_neighbours, logit_of, rows_per_logit
from autosample.sampling.rules.learned import LearnedOffsets, LearnedOptions
from autosample.sampling.rules.table import TableOffsets, start_offsets
from autosample.sampling.rules.wrapped import Patches, WrappedOffsets
from autosample.sampling.windows import Placement

# Share of the newest batch in the routing map (the paper's 1 - decay).
_MOMENTUM = 0.03
_HIDDEN = 16


@dataclass(frozen=True, kw_only=True)
class IndexedOptions(LearnedOptions):
    """Settings of the rule, besides those of every learned rule. `rate` is that of the index learner.

    Attributes:
        unit: What the learner predicts: how far an offset lies from its start, through a `sigmoid` [rows]; or NES's own
            `logit`, in which a step can be hundreds of rows.
        reads: What the learner reads: the input `pooled` over space, or all its `places`, as in the paper. The latter
            costs `M·H + H·N·G` for each place instead of for each example.
        forward: Which offsets a training step uses: those of its `batch`, or the `map`, the average that is left after
            training. Gradients reach the learner in both.
        patch: Consecutive filters that share an offset, each a window after the last one: the paper's wrapping along
            filters. Its wrapping along channels is that of `windows`. A file holds an offset for each patch and window.
    """

    unit: Literal["sigmoid", "logit"] = "sigmoid"
    reads: Literal["pooled", "places"] = "pooled"
    forward: Literal["batch", "map"] = "batch"
    patch: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("patch", self.patch, least=1, fix="4 lets four filters share an offset")


class IndexedOffsets(LearnedOffsets):
    """In training, offsets are predicted from the input and averaged into a routing map; otherwise the map is used.

    The learner is two pointwise layers with a ReLU. Its output `d` is added to the logit `z` of the start, so that
    `o = last·mean σ(z + 4d/last)`, or `o = last·mean σ(z + d)` for the unit `logit`; the mean is over the batch, and
    over places if it reads these. It computes in float32 at least. Hardening drops it.

    Attributes:
        routing: The moving average of the patches' offsets, `(N/patch, G)` [grid steps].
        centre: The logit of the start, `(N/patch, G)`.
        learner: The two layers; `None` if the input has no channels.
    """

    Options: ClassVar[type[RuleOptions]] = IndexedOptions
    options: IndexedOptions
    watches_input = True
    routing: Tensor
    centre: Tensor

    def __init__(
        self,
        lattice: Lattice,
        options: IndexedOptions | None = None,
        *,
        seed: int = 0,
        in_channels: int = 0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(lattice, options, seed=seed, device=device)
        self.patches = Patches(lattice, self.options.patch)
        self.range = self.patches.whole
        routing, centre = self._begun(self._patch_start())
        self.register_buffer("routing", routing)
        self.register_buffer("centre", centre)
        self.channels = in_channels
        self.learner = self._new_learner() if in_channels else None
        self._current: Tensor | None = None

    def _patch_start(self) -> Int[Tensor, "p g"]:
        return start_offsets(self.range, self.options.start, self.seeded_with, self.anchor.device)

    def _begun(self, start: Int[Tensor, "p g"]) -> tuple[Tensor, Tensor]:
        """The routing map and its logits, if windows are at these offsets."""
        routing = start / self.lattice.grid
        return routing, logit_of(start.to(routing.dtype), self.range)

    def start(self) -> Int[Tensor, "n g"]:
        return self.patches.spread(self._patch_start())

    def _new_learner(self) -> nn.Sequential:
        """An index learner whose first predictions are the start (or near it, in NES's own unit)."""
        device, outputs = self.routing.device, self.routing.numel()
        first = nn.Linear(self.channels, _HIDDEN, device=device)
        last = nn.Linear(_HIDDEN, outputs, device=device)
        with torch.no_grad():
            last.weight.mul_(0.1 if self.options.unit == "logit" else 0.0)
            last.bias.zero_()
        return nn.Sequential(first, nn.ReLU(), last)

    @property
    def _rows(self) -> float:
        """Rows per unit of the learner's output, in the middle of the range."""
        return rows_per_logit(self.range) if self.options.unit == "logit" else 1.0

    @torch.no_grad()
    def assign(self, offsets: Int[Tensor, "n g"]) -> None:
        routing, centre = self._begun(offsets[:: self.patches.count].clamp(max=self.range.last))
        self.routing.copy_(routing)
        self.centre.copy_(centre)
        if self.learner is not None:
            self.learner = self._new_learner()

    def observe(self, places: Float[Tensor, "b p c"]) -> None:
        """Predict offsets for a batch of inputs at all places, and move the map."""
        if self.is_frozen or not self.training or self.learner is None:
            self._current = None
            return
        with torch.autocast(places.device.type, enabled=False):  # bfloat16 is off by up to 49 rows
            self._current = self._predicted(self.learner, places)
        with torch.no_grad():
            self.routing.lerp_(self._current.detach().to(self.routing.dtype), _MOMENTUM)

    def _predicted(self, learner: nn.Sequential, places: Float[Tensor, "b p c"]) -> Float[Tensor, "n g"]:
        """Offsets [grid steps]."""
        shift = self._moved(learner, places) * (self._rows / rows_per_logit(self.range))
        share = torch.sigmoid(self.centre.reshape(-1) + shift).mean((0, 1))
        return share.view_as(self.routing) * (self.range.choices - 1)

    def _moved(self, learner: nn.Sequential, places: Float[Tensor, "b p c"]) -> Float[Tensor, "b p o"]:
        """The learner's outputs, at all places or, pooled, at one."""
        x = places.to(next(learner.parameters()).dtype)
        return learner(x.mean(1, keepdim=True) if self.options.reads == "pooled" else x)

    def forget(self) -> None:
        """Drop the prediction of the last batch."""
        self._current = None

    def hard_offsets(self) -> Int[Tensor, "n g"]:
        steps = self.routing.round().long().clamp_(0, self.range.choices - 1)
        return self.patches.spread(steps * self.lattice.grid)

    def soft_offsets(self) -> Float[Tensor, "n g"]:
        return self.patches.spread(self.routing * self.lattice.grid)

    def _steps_now(self) -> Tensor:
        """What a step uses: the map; in training its value with the prediction's gradient, or the prediction."""
        if self._current is None or self.options.forward == "batch":
            return self.routing if self._current is None else self._current
        return straight(self._current.to(self.routing.dtype), self.routing)

    def soft_placement(self) -> Placement:
        return between_neighbours(self.patches.spread(self._steps_now(), self.lattice.grid), self.lattice)

    @classmethod
    def chosen_bits(cls, options: IndexedOptions, lattice: Lattice) -> int:
        return Patches(lattice, options.patch).whole.table_bits

    def stored_bits(self) -> int:
        return self.range.table_bits

    def hardened(self) -> Offsets:
        if self.patches.count == 1:
            return super().hardened()
        table = TableOffsets(self.range, self()[:: self.patches.count].contiguous())
        return WrappedOffsets(self.lattice, self.options.patch, table)

    def packed(self) -> dict[str, Tensor]:
        offsets = self.kept("table") if self.anchor.is_meta else self()
        return self.range.pack(self.range.steps(offsets[:: self.patches.count].contiguous()))

    def restored(self, stored: Mapping[str, Tensor]) -> Offsets:
        table = TableOffsets(self.range, self.range.unpack(stored))
        return table if self.patches.count == 1 else WrappedOffsets(self.lattice, self.options.patch, table)

    def rated(self) -> list[nn.Parameter]:
        return [] if self.learner is None else list(self.learner.parameters())

    def speed(self, rate: float) -> float:
        return rate * self._rows if self.range.choices > 1 else 0.0

    def in_old_unit(self, state: Collection[str]) -> bool:
        return "routing" in state and "centre" not in state

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        """Load a state; the learner of earlier versions predicted the whole logit, which began as its last bias."""
        if self.in_old_unit({key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)}):
            routing, bias = state_dict[prefix + "routing"], prefix + "learner.2.bias"
            if bias in state_dict:
                scale = rows_per_logit(self.range) / self._rows
                state_dict[prefix + "centre"] = state_dict[bias].view_as(routing)
                state_dict[bias] = torch.zeros_like(state_dict[bias])
                state_dict[prefix + "learner.2.weight"] = state_dict[prefix + "learner.2.weight"] * scale
            else:
                state_dict[prefix + "centre"] = logit_of(routing * self.lattice.grid, self.range)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
