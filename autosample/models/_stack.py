"""Nets that are a plain stack of convs, described by a layer table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, nn

from autosample.errors import DataError
from autosample.models._net import StackHead, StagedNet, scaled
from autosample.reuse import norm_pool, signals
from autosample.system.hooks import has_hooks

__all__ = ["ConvStack", "ConvStage", "Row", "StackCfg", "min_input"]

CONV: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d}
NORM: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
MAX_POOL: dict[int, type[nn.Module]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d}
UNIT = {1: "samples", 2: "pixels per side"}


@dataclass(frozen=True)
class Row:
    """One line of a layer table: a conv of `width` filters and the max-pool after it.

    `kernel`, `stride`, `pool` and `padding` count samples or pixels and apply to every axis; `pool` is both the window
    and the stride of the pool (1 = none). Without `padding` it is `kernel // 2`.
    """

    width: int
    kernel: int
    stride: int = 1
    pool: int = 1
    padding: int | None = None

    @property
    def pad(self) -> int:
        return self.kernel // 2 if self.padding is None else self.padding

    @property
    def reduction(self) -> int:
        return self.stride * self.pool

    def needs(self, positions: int) -> int:
        """Minimum input length for `positions` outputs."""
        return max(1, (positions * self.pool - 1) * self.stride + self.kernel - 2 * self.pad)


@dataclass(frozen=True)
class StackCfg:
    """A net as a table: the `rows` and the head.

    `positions` is the output size of the head's pool per axis (1 = global pool), `hidden` the widths of the fully
    connected layers before the classifier. `act_first` puts the ReLU before the batch norm.
    """

    rows: tuple[Row, ...]
    positions: int = 1
    hidden: tuple[int, ...] = ()
    act_first: bool = False

    @property
    def taps(self) -> tuple[int, ...]:
        """Rows whose output is a feature map: one per resolution, and always the last one."""
        last = len(self.rows) - 1
        return tuple(i for i, row in enumerate(self.rows) if row.reduction > 1 or i == last)

    def scaled(self, width: float) -> "StackCfg":
        """The same net with `width` times the channels, rounded."""
        if width == 1.0:
            return self
        rows = tuple(replace(row, width=scaled(row.width, width)) for row in self.rows)
        return replace(self, rows=rows, hidden=tuple(scaled(n, width) for n in self.hidden))


class ConvStage(nn.Module):
    """conv → batch norm → max-pool → ReLU, or conv → ReLU → batch norm → max-pool with `act_first`.

    The conv has a bias only if no batch norm follows directly, since the norm would cancel it. In training
    on a CPU, long and short signals are convolved in faster ways than torch's, and norm, pool and ReLU of long ones run
    as one operator; see `autosample.reuse.signals` and `autosample.reuse.norm_pool`.

    Args:
        in_chans: input channels.
        row: the line of the table.
        ndim: 1 for signals, 2 for images.
        min_input: minimum input size of the net per axis for this stage to give any output; for the message.
        norm: whether to use batch norm.
        act_first: ReLU before the norm.
    """

    def __init__(
        self,
        in_chans: int,
        row: Row,
        *,
        ndim: int,
        min_input: int = 1,
        norm: bool = True,
        act_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.needs = row.needs(1)
        self.min_input = min_input
        self.unit = UNIT[ndim]
        self.act_first = act_first
        bias = act_first or not norm
        self.conv = CONV[ndim](in_chans, row.width, row.kernel, stride=row.stride, padding=row.pad, bias=bias, **dd)
        self.norm = NORM[ndim](row.width, **dd) if norm else nn.Identity()
        self.act = nn.ReLU(inplace=True)
        self.pool = MAX_POOL[ndim](row.pool) if row.pool > 1 else nn.Identity()

    def forward(self, x: Float[Tensor, "batch in_chans *positions"]) -> Float[Tensor, "batch width *fewer"]:
        """Shapes `[B, in_chans, ...]` → `[B, width, ...]`. Raises `DataError` if nothing is left to pool."""
        if min(x.shape[2:]) < self.needs:
            raise DataError(
                f"the input is too small: a stage needs {self.needs} values per axis and gets {min(x.shape[2:])}: "
                f"pass at least {self.min_input} {self.unit}"
            )
        x = self._convolved(x)
        if self.act_first:
            return self.pool(self.norm(self.act(x)))
        if norm_pool.fits(x, self.norm, self.pool, self.act):
            return norm_pool.norm_pool_relu(x, cast(Any, self.norm), cast(Any, self.pool))
        return self.act(self.pool(self.norm(x)))  # ReLU and max-pool commute, and the pool leaves less to do

    def _convolved(self, x: Tensor) -> Tensor:
        conv, y = self.conv, None
        if type(conv) is nn.Conv1d and not has_hooks(conv):
            y = signals.convolve(conv, x, conv.weight, conv.bias)
        return conv(x) if y is None else y


class ConvStack(StagedNet):
    """A plain stack of convs from a layer table. Use `ConvStack1d` or `ConvStack2d`.

    Args:
        cfg: the table.
        num_classes: classes; 0 for pooled features.
        in_chans: input channels.
        global_pool: "avg", "max", or "" (see `StackHead`).
        drop_rate: dropout before the classifier.
        norm: whether a batch norm follows every conv.
        width: factor for the channels of every conv and hidden layer, rounded; at least 1 channel.
    """

    ndim: int

    def __init__(
        self,
        cfg: StackCfg,
        num_classes: int = 10,
        in_chans: int = 1,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        norm: bool = True,
        width: float = 1.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_chans, num_classes, drop_rate)
        dd = {"device": device, "dtype": dtype}
        cfg = cfg.scaled(width)
        stage = partial(ConvStage, ndim=self.ndim, norm=norm, act_first=cfg.act_first, **dd)
        widths = [in_chans, *(row.width for row in cfg.rows)]
        stages, self.feature_info, reduction = [], [], 1
        for i, row in enumerate(cfg.rows):
            stages.append(stage(widths[i], row, min_input=min_input(cfg.rows[: i + 1])))
            reduction *= row.reduction
            if i in cfg.taps:
                self.feature_info.append({"num_chs": row.width, "reduction": reduction, "module": f"stages.{i}"})
        self.stages = nn.Sequential(*stages)
        head = partial(StackHead, ndim=self.ndim, positions=cfg.positions, hidden=cfg.hidden, drop_rate=drop_rate, **dd)
        self.finish(head(widths[-1], num_classes, pool_type=global_pool))

    @property
    def min_input_size(self) -> int:
        """Minimum samples (1-D) or pixels per side (2-D) that `forward` accepts."""
        return cast(ConvStage, self.stages[-1]).min_input

    def check_input(self, x: Tensor) -> Tensor:
        if x.ndim != self.ndim + 2 or x.shape[1] != self.in_chans:
            axes = ", ".join(("T",) if self.ndim == 1 else ("H", "W"))
            raise DataError(f"this net takes [B, {self.in_chans}, {axes}], got {list(x.shape)}: reshape the input")
        return x


def min_input(rows: Sequence[Row]) -> int:
    """Minimum input size per axis for an output of one from the last of `rows`."""
    positions = 1
    for row in reversed(rows):
        positions = row.needs(positions)
    return positions
