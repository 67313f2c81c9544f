"""The fused CPU kernel: built on first use (see `compiled`), kept in torch's cache of extensions.

Where it cannot be built `available()` is false, and everything runs on standard operators.
"""

import hashlib
import math
import os
import threading
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, library
from torch.utils.flop_counter import register_flop_formula

from autosample.errors import one_line
from autosample.reuse import ops
from autosample.reuse.compiled import load_library
from autosample.reuse.program import Flow, Header, encode
from autosample.reuse.schedule import Frame
from autosample.reuse.task import Task
from autosample.system.machine import instructions

_FOLDER = Path(__file__).parent / "csrc"
_SOURCES = ("folded_linear.cpp", "max_pool.cpp", "norm_pool.cpp", "window_conv.cpp")
_HEADERS = ("adjoint.h", "narrow.h", "pages.h", "program.h", "segments.h", "select.h", "simd.h", "tile.h")
_FLAGS = ["-O3", "-march=native", "-fopenmp", "-std=c++20"]
_loading = threading.Lock()
PANEL = 16  # equal to kPanel in csrc/simd.h


def why_not() -> str:
    """Why the kernel cannot be used here; empty if it can. The first call builds it (about a minute)."""
    with _loading:  # threads must not load it twice
        return _why_not()


@cache
def _why_not() -> str:
    if os.environ.get("AUTOSAMPLE_FUSED", "1") == "0":
        return "switched off by AUTOSAMPLE_FUSED=0"
    try:
        sources = [str(_FOLDER / source) for source in _SOURCES]
        # one library per processor: machines may share a home directory
        load_library(
            f"autosample_{version()}",
            {"sources": sources, "extra_cflags": _FLAGS, "extra_ldflags": ["-fopenmp"]},
        )
        library.register_fake("autosample::window_conv", _fake)
        register_flop_formula(torch.ops.autosample.window_conv)(_flops)
        library.register_fake("autosample::folded_linear", _fake_linear)
        register_flop_formula(torch.ops.autosample.folded_linear)(_linear_flops)
        library.register_fake("autosample::max_pool2d", _fake_pool)
    except Exception as error:  # a library from elsewhere can fail in any way
        return one_line(error)[:300]
    return ""


def available() -> bool:
    """Whether the fused kernel can be used."""
    return not why_not()


def takes(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel computes in this type, on this device."""
    return device.type == "cpu" and dtype in (torch.float32, torch.bfloat16)


def fits(x: Tensor) -> bool:
    """Whether the kernel takes this input: of a type that it knows, and without gradients."""
    return takes(x.device, x.dtype) and not (x.requires_grad and torch.is_grad_enabled())


def missed() -> str:
    """Why this process does without the kernel; empty if it has it, or never asked for it."""
    return why_not() if _why_not.cache_info().currsize else ""


@cache
def version() -> str:
    """A key that changes with the kernel's sources, torch and the processor."""
    key = hashlib.sha256()
    for name in (*_HEADERS, *_SOURCES):
        key.update((_FOLDER / name).read_bytes())
    for part in (*_FLAGS, torch.__version__, instructions()):
        key.update(part.encode())
    return key.hexdigest()[:12]


def _fake(x, bank, rows, factors, bias, program, more=None):
    h = Header.of(program)
    width = (x.shape[-1] + h.pad_w + h.after_w - h.reach_w - 1) // h.stride_w + 1
    out = [width // h.pool if h.pool > 1 else width]
    if x.dim() == 4:
        out.insert(0, (x.shape[2] + h.pad_h + h.after_h - h.reach_h - 1) // h.stride_h + 1)
    return x.new_empty(x.shape[0], rows.shape[0], *out)


def _flops(x_shape, bank_shape, rows_shape, factors, bias, program, *more: Any, out_shape: Any, **kwargs: Any) -> int:
    """Twice the multiply-adds of the segments, for `torch.utils.flop_counter`; sums and selection only add."""
    h = Header.of(program)
    places = math.prod(out_shape[2:]) * h.pool * h.phases
    return (
        2 * out_shape[0] * places * h.groups * (1 if h.fold else h.windows) * h.rows * max(h.folds, 1) * bank_shape[1]
    )


def _fake_linear(x, bank, bias, program):
    return x.new_empty(x.shape[0], program[4])


def _fake_pool(x, frame):
    kernel, stride, padding = frame[:2], frame[2:4], frame[4:]
    sides = [(x.shape[2 + i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in range(2)]
    return x.new_empty(*x.shape[:2], *sides)


def _linear_flops(x_shape, bank_shape, bias, program, *, out_shape: Any, **kwargs: Any) -> int:
    return 2 * math.prod(out_shape) * bank_shape[1]


def pack_bank(bank: Float[Tensor, "l q"], task: Task) -> Float[Tensor, "p d r"]:
    """Segments in the kernel's layout: panels of 16 rows, side by side for each tap and column."""
    return panels(bank, task.segments)


def panels(bank: Float[Tensor, "l q"], count: int) -> Float[Tensor, "p d r"]:
    """As `pack_bank`, for `count` segments."""
    segments = bank.detach().float().reshape(count, -1)
    surplus = -count % PANEL
    return F.pad(segments, (0, 0, 0, surplus)).unflatten(0, (-1, PANEL)).transpose(1, 2).contiguous()


def unpack_bank(panels: Float[Tensor, "p d r"], task: Task) -> Float[Tensor, "l q"]:
    """The inverse of `pack_bank`."""
    segments = panels.transpose(1, 2).flatten(0, 1)[: task.segments]
    return segments.reshape(-1, task.columns)


def make_program(task: Task, frame: Frame, *, relu: bool = False, pool: int = 1) -> list[int]:
    """The kernel's program for a task, valid for inputs of any size."""
    flow = Flow(
        groups=task.groups,
        windows=task.splits,
        columns=task.columns,
        channels=task.channels if task.table is None else task.splits * task.columns,
        fold=task.fold,
        choices=task.choices,
        spread=len(task.rows) / task.choices,
        relu=relu,
        pool=pool,
    )
    return encode(task.schedule, frame, flow)


def window_conv(
    x: Float[Tensor, "b c *size"],
    bank: Float[Tensor, "p d r"],
    rows: Int[Tensor, "n g"],
    factors: Float[Tensor, "n #g"] | None,
    bias: Float[Tensor, " n"] | None,
    program: list[int],
    more: Float[Tensor, "b n *out"] | None = None,
) -> Float[Tensor, "b n *out"]:
    """The whole layer in one call; see `csrc/window_conv.cpp`. CPU, float32 and bfloat16, not differentiable.

    If channels choose their columns, `x` must come from `ops.place_columns`. `more` is added before the ReLU; only
    layers with folds and without a pool take it.
    """
    return torch.ops.autosample.window_conv(x, bank, rows, factors, bias, program, more)


def convolve(
    x: Float[Tensor, "b c *size"],
    bank: Float[Tensor, "l q"],
    factors: Float[Tensor, "n #g"] | None,
    task: Task,
    frame: Frame,
) -> Float[Tensor, "b n *out"]:
    """`ops.convolve` with the kernel, differentiable once in input and bank, not in factors. CPU, float32."""
    if task.table is not None:
        x = ops.place_columns(x, task.table, task.groups)
    factors = None if factors is None else factors.detach().contiguous()
    return _Convolution.apply(x, bank, factors, task, make_program(task, frame))


class _Convolution(torch.autograd.Function):
    """The kernel and its adjoint. Both keep only the layer's input and its bank."""

    @staticmethod
    def forward(ctx, x: Tensor, bank: Tensor, factors: Tensor | None, task: Task, program: list[int]) -> Tensor:
        panels = pack_bank(bank, task)
        ctx.save_for_backward(x, panels, task.rows, factors)
        ctx.program = program
        return window_conv(x, panels, task.rows, factors, None, program)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        wanted = ctx.needs_input_grad[:2]
        backward = torch.ops.autosample.window_conv_backward
        d_x, d_bank = backward(grad, *ctx.saved_tensors, ctx.program, *wanted)
        return d_x if wanted[0] else None, d_bank if wanted[1] else None, None, None, None
