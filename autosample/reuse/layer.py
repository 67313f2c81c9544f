"""The inference module of a layer that reuses work."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from autosample.reuse import fused, ops
from autosample.reuse.deployed import Deployed
from autosample.reuse.schedule import Frame
from autosample.reuse.task import Task

# checked once, because torch 2.8 cannot compile the check
_AUTOCASTS = {kind for kind in ("cpu", "cuda", "xpu", "mps", "hpu") if torch.amp.is_autocast_available(kind)}


def in_autocast(x: Tensor) -> Tensor:
    """`x` in the type that a convolution under autocast would use."""
    kind = x.device.type
    if kind in _AUTOCASTS and torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(kind))
    return x


@contextmanager
def kept_float(module: nn.Module) -> Iterator[None]:
    """Numbers for the fused kernel stay float32 in half-precision models: it computes in float32."""
    kept = {name: b for name, b in module._buffers.items() if b is not None and b.is_floating_point()}
    yield
    for name, before in kept.items():
        now = module._buffers[name]
        assert now is not None
        module._buffers[name] = before.float().to(now.device)


def check_pool(frame: Frame, x: Tensor, pool: int) -> None:
    """The kernel does not check that a max-pool has a value."""
    if pool > 1 and (length := frame.out(x.shape[2:])[-1]) < pool:
        raise RuntimeError(f"a max-pool of {pool} needs at least as many values, got {length}: pass more")


@dataclass(frozen=True, eq=False)
class _Known(Task):
    """A task with its order already determined, because a trace cannot read numbers."""

    in_order: bool = False  # pyright: ignore[reportIncompatibleVariableOverride]


def _known(task: Task) -> Task:
    return _Known(**{f.name: getattr(task, f.name) for f in fields(Task)}, in_order=Task.in_order.__get__(task))


class WindowConv(Deployed):
    """A convolution whose filters are windows of a bank, for inference; made by `autosample.deploy`.

    Input and output are those of the `torch.nn.Conv1d` or `Conv2d` that it replaces, followed by what was folded in. On
    a CPU in float32 and bfloat16 the fused kernel runs, if `kernel` is set and it can be built. Otherwise standard
    operators compute the same sums.

    Args:
        task, frame: What to compute.
        bank: `task.source(summary)`, shape `(segments·step, columns)`.
        factors: Per filter `(N, 1)` or per window `(N, G)`, or `None`.
        bias: `(N,)` or `None`.
        mix: WSNet's mixing matrix `(N', N)`: filters are mixed before the bias is added.
        pad: Sizes and mode of `torch.nn.functional.pad` before the layer, if the padding is not zeros.
        relu, pool: Whether a ReLU follows, and size and stride of the max-pool that follows (1-D only).
        kernel: Whether to use the fused kernel.
    """

    bank: Tensor
    rows: Tensor
    table: Tensor | None
    factors: Tensor | None
    bias: Tensor | None
    mix: Tensor | None

    def __init__(
        self,
        task: Task,
        frame: Frame,
        bank: Float[Tensor, "l q"],
        *,
        factors: Float[Tensor, "n #g"] | None = None,
        bias: Float[Tensor, " n"] | None = None,
        mix: Float[Tensor, "m n"] | None = None,
        pad: tuple[list[int], str] | None = None,
        relu: bool = False,
        pool: int = 1,
        kernel: bool = False,
    ) -> None:
        super().__init__()
        self.task, self.frame, self.pad, self.relu, self.pool = _known(task), frame, pad, relu, pool
        self.kernel, self._ready = kernel, kernel and fused.available()
        bank = bank.detach()
        self.register_buffer("bank", fused.pack_bank(bank, task) if kernel else bank.clone().contiguous())
        self.register_buffer("rows", task.rows.contiguous())
        for name, tensor in (("table", task.table), ("factors", factors), ("bias", bias), ("mix", mix)):
            if tensor is None:  # no empty buffer: `torch.export` fails on these
                setattr(self, name, None)
            else:
                self.register_buffer(name, tensor.detach().clone().contiguous())
        plain = mix is None
        self.program = fused.make_program(task, frame, relu=relu and plain, pool=pool if plain else 1) if kernel else []
        self._apply(lambda t: t)

    @property
    def dense_weights(self) -> int:
        return self.task.dense

    @property
    def stored_weights(self) -> int:
        return self.bank.numel()

    @property
    def other_numbers(self) -> int:
        return sum(t.numel() for t in (self.factors, self.bias, self.mix) if t is not None)

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        axes = len(self.frame.kernel)
        if input.dim() == axes + 1:
            return self.forward(input.unsqueeze(0)).squeeze(0)
        self._check(input, axes)
        # cast after the padding, which runs in float32 under autocast
        x = in_autocast(input if self.pad is None else F.pad(input, self.pad[0], self.pad[1]))
        if self._fuses(x):
            return self._fused(x)
        # tiles would fix a graph to one size, and gradients need the intermediate results
        whole = torch.compiler.is_compiling() or (x.requires_grad and torch.is_grad_enabled())
        convolve = ops.convolve if whole else ops.convolve_in_tiles
        task = replace(self.task, rows=self.rows, table=self.table)  # as loaded, on this device
        return self._finish(convolve(x, self._plain_bank(), self.factors, task, self.frame))

    def _fused(self, x: Tensor) -> Tensor:
        check_pool(self.frame, x, self.pool)
        if self.table is not None:
            x = ops.place_columns(x, self.table, self.task.groups)
        bias = self.bias if self.mix is None else None
        y = fused.window_conv(x, self.bank, self.rows, self.factors, bias, self.program)
        return y if self.mix is None else self._finish(y)

    def _check(self, x: Tensor, axes: int) -> None:
        wanted = self.task.groups * self.task.channels
        if x.dim() != axes + 2 or x.shape[1] != wanted:
            raise RuntimeError(
                f"expected {wanted} channels and {axes} spatial axes, got an input of shape {tuple(x.shape)}"
            )

    def _fuses(self, x: Tensor) -> bool:
        return self._ready and fused.fits(x)

    def _plain_bank(self) -> Float[Tensor, "l q"]:
        return fused.unpack_bank(self.bank, self.task) if self.kernel else self.bank

    def _finish(self, y: Tensor) -> Tensor:
        ones = [1] * (y.dim() - 2)
        if self.mix is not None:
            y = (self.mix.to(y.dtype) @ y.flatten(2)).unflatten(2, y.shape[2:])
        if self.bias is not None:
            y = y + self.bias.to(y.dtype).view(-1, *ones)
        y = F.relu(y) if self.relu else y
        if self.pool == 1:
            return y
        if torch.compiler.is_compiling():  # torch's own 1-D pooling would fix the length
            return F.max_pool2d(y.unsqueeze(2), (1, self.pool)).squeeze(2)
        return F.max_pool1d(y, self.pool)

    def _apply(self, fn, recurse: bool = True):
        with kept_float(self) if self.kernel else nullcontext():
            super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        if not self.rows.is_meta:
            self.task = _known(replace(self.task, rows=self.rows, table=self.table))

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._ready = self.kernel and fused.available()  # another machine may have no compiler

    def extra_repr(self) -> str:
        s, t = self.frame, self.task
        sums = "x".join(str(p.count) for p in t.schedule.axes) or "1"
        text = f"{t.groups * t.channels}, {t.filters}, kernel_size={s.kernel}, stride={s.stride}, padding={s.padding}"
        plan = f"{t.segments} segments of {t.schedule.segment}x{t.columns}, sums of {sums}"
        return f"{text}, {plan}{', relu' if self.relu else ''}{f', max-pool {self.pool}' if self.pool > 1 else ''}"
