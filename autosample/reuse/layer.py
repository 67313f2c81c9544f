"""The inference module of a layer that reuses work."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from autosample.reuse import fused, ops
from autosample.reuse.schedule import Frame
from autosample.reuse.task import Task


class WindowConv(nn.Module):
    """A convolution whose filters are windows of a bank, for inference; made by `autosample.deploy`.

    Input and output are those of the `torch.nn.Conv1d` or `Conv2d` that it stands for, followed by what was folded in.
    On a CPU in float32 and bfloat16 the fused kernel runs, if `kernel` is set and it can be built; else the same sums
    run as standard operators.

    Args:
        task, frame: What to compute.
        bank: `task.source(summary)`, shape `(segments·step, columns)`.
        factors: Per filter `(N, 1)` or per window `(N, G)`, or `None`.
        bias: `(N,)` or `None`.
        mix: WSNet's mixing matrix `(N', N)`: filters are mixed before the bias is added.
        pad: What `torch.nn.functional.pad` is to add before, and in which mode, where it is not zeros.
        relu, pool: What follows: a ReLU, a max-pool of this size and stride (1-D only).
        kernel: Whether the fused kernel is wanted.
    """

    bank: Tensor
    rows: Tensor
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
        self.task, self.frame, self.pad, self.relu, self.pool, self.kernel = task, frame, pad, relu, pool, kernel
        bank = bank.detach()
        self.register_buffer("bank", fused.pack_bank(bank, task) if kernel else bank.clone().contiguous())
        self.register_buffer("rows", task.rows.contiguous())
        for name, tensor in (("factors", factors), ("bias", bias), ("mix", mix)):
            self.register_buffer(name, None if tensor is None else tensor.detach().clone().contiguous())
        plain = mix is None
        self.program = fused.make_program(task, frame, relu=relu and plain, pool=pool if plain else 1) if kernel else []
        self._apply(lambda t: t)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        axes = len(self.frame.kernel)
        if x.dim() == axes + 1:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        self._check(x, axes)
        if self.pad is not None:
            x = F.pad(x, self.pad[0], self.pad[1])
        if not self._fuses(x):
            y = ops.convolve(x, self._plain_bank(), self.factors, self.task, self.frame)
            return self._finish(y, relu=self.relu, pool=self.pool)
        if self.mix is None:
            return fused.window_conv(x, self.bank, self.rows, self.factors, self.bias, self.program)
        y = fused.window_conv(x, self.bank, self.rows, self.factors, None, self.program)
        return self._finish(y, relu=self.relu, pool=self.pool)

    def _check(self, x: Tensor, axes: int) -> None:
        wanted = self.task.groups * self.task.channels
        if x.dim() != axes + 2 or x.shape[1] != wanted:
            raise RuntimeError(f"expected input of {wanted} channels and {axes} axes, got shape {tuple(x.shape)}")

    def _fuses(self, x: Tensor) -> bool:
        usable = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
        return self.kernel and usable and not (x.requires_grad and torch.is_grad_enabled()) and fused.available()

    def _plain_bank(self) -> Float[Tensor, "l q"]:
        return fused.unpack_bank(self.bank, self.task) if self.kernel else self.bank

    def _finish(self, y: Tensor, relu: bool, pool: int) -> Tensor:
        ones = [1] * (y.dim() - 2)
        if self.mix is not None:
            y = (self.mix.to(y.dtype) @ y.flatten(2)).unflatten(2, y.shape[2:])
        if self.bias is not None:
            y = y + self.bias.to(y.dtype).view(-1, *ones)
        y = F.relu(y) if relu else y
        return F.max_pool1d(y, pool) if pool > 1 else y

    def _apply(self, fn, recurse: bool = True):
        """Numbers that the fused kernel reads stay float32 in half-precision models: it computes in float32."""
        kept = {name: b for name, b in self._buffers.items() if b is not None and b.is_floating_point()}
        super()._apply(fn, recurse)
        if self.kernel:
            for name, before in kept.items():
                now = self._buffers[name]
                assert now is not None
                self._buffers[name] = before.float().to(now.device)
        return self

    def extra_repr(self) -> str:
        s, t = self.frame, self.task
        sums = "x".join(str(p.count) for p in t.schedule.axes) or "1"
        text = f"{t.groups * t.channels}, {t.filters}, kernel_size={s.kernel}, stride={s.stride}, padding={s.padding}"
        plan = f"{t.segments} segments of {t.schedule.segment}x{t.columns}, sums of {sums}"
        return f"{text}, {plan}{', relu' if self.relu else ''}{f', max-pool {self.pool}' if self.pool > 1 else ''}"
