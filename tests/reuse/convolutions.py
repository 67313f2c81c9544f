"""Random convolutions for the tests of the reuse engine."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import autosample
from autosample.nn import SummaryConv1d, SummaryConv2d
from autosample.nn.planning import layer_frame
from autosample.reuse.schedule import Frame
from autosample.reuse.task import Task
from autosample.sampling.rules.table import TableOffsets

SPECS = {
    "strided": {"preset": "wsnet"},
    "strided, scaled filters": {"preset": "wsnet"},
    "shuffled columns": {"preset": "wsnet", "columns": "shuffle"},
    "free": {"preset": "random"},
    "free, signs": {"preset": "random", "signs": "random"},
    "free, signs, scaled filters": {"preset": "random", "signs": "random"},
    "free, shuffled columns": {"preset": "random", "columns": "shuffle"},
    "free on a grid": {"preset": "random", "grid": 2},
    "free on kernel rows": {"preset": "random", "grid": 3},
    "fixed distances": {"preset": "random"},
    "codebook": {"preset": "kmeans", "layout": "flat"},
    "strided channels": {"preset": "fsnet", "layout": "flat"},
}


@dataclass
class Case:
    """A layer, an input for it, and how the engine sees both."""

    layer: SummaryConv1d | SummaryConv2d
    x: Tensor
    task: Task
    frame: Frame
    scale: Tensor | None = None  # of filters, `(N, 1)`

    @property
    def factors(self) -> Tensor | None:
        signs = self.layer.signs()
        return signs if self.scale is None else self.scale if signs is None else signs * self.scale

    @property
    def bank(self) -> Tensor:
        return self.task.source(self.layer.summary)

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """What torch makes of the materialised weight."""
        layer, conv = self.layer, nn.functional.conv1d if self.x.dim() == 3 else nn.functional.conv2d
        x = nn.functional.pad(self.x.to(dtype), layer._reversed_padding_repeated_twice)
        weight = layer.weight.to(dtype)
        if self.scale is not None:
            weight = weight * self.scale.to(dtype).view(-1, *[1] * (weight.dim() - 1))
        return conv(x, weight, None, layer.stride, 0, layer.dilation, layer.groups)


def make_case(layer: SummaryConv1d | SummaryConv2d, x: Tensor, scale: Tensor | None = None) -> Case:
    task = layer.task()
    assert task is not None
    return Case(layer, x, task, layer_frame(layer)[0], scale)


def fix_distances(layer: SummaryConv1d | SummaryConv2d) -> None:
    """Give all filters windows that lie equally far apart."""
    lattice = layer.offsets.lattice
    apart = torch.arange(lattice.windows) * (lattice.last // lattice.grid // (2 * lattice.windows))
    first = layer.offsets()[:, :1] // lattice.grid // 2
    layer.offsets = TableOffsets(lattice, (first + apart) * lattice.grid)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Layers of one and two axes with all options of a convolution, and inputs of odd sizes."""
    axes = draw(st.sampled_from([1, 2]))
    small = st.integers(1, 3)
    kernel = tuple(
        draw(st.sampled_from([1, 2, 3, 4, 5, 6, 8, 12, 16] if axes == 1 else [1, 2, 3, 4])) for _ in range(axes)
    )
    stride, dilation = (tuple(draw(small) for _ in range(axes)) for _ in range(2))
    padding = draw(st.one_of(st.just("same"), st.tuples(*[st.integers(0, 4)] * axes)))
    stride = (1,) * axes if padding == "same" else stride
    groups, windows = draw(st.sampled_from([1, 1, 2, 3])), draw(st.sampled_from([1, 2, 3, 4]))
    channels, filters = windows * draw(st.integers(1, 4)), draw(st.integers(2, 24))
    kind = draw(st.sampled_from(sorted(SPECS)))
    spec = dict(SPECS[kind])
    if spec["preset"] == "wsnet":
        sizes = {"options": {"spatial": draw(st.sampled_from([1, 2, 4])), "channel": windows}}
    elif spec.get("layout") == "flat":
        taps = torch.Size(kernel).numel()
        sizes = {"window": taps * channels // windows, "ratio": draw(st.sampled_from([1.5, 4.0]))}
    else:
        sizes = {"windows": windows, "ratio": draw(st.sampled_from([1.5, 4.0, 16.0]))}
    seed = draw(st.integers(0, 2**16))
    torch.manual_seed(seed)
    face = SummaryConv1d if axes == 1 else SummaryConv2d
    layer = face(
        channels * groups, filters * groups, kernel, stride, padding, dilation, groups, bias=False,
        spec=autosample.spec(spec.pop("preset"), **spec, **sizes, seed=seed),
    )  # fmt: skip
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    extra = [draw(st.integers(0, 70 if axes == 1 else 20)) for _ in range(axes)]
    x = torch.randn(draw(small), channels * groups, *(r + e for r, e in zip(reach, extra, strict=True)))
    if kind == "fixed distances":
        fix_distances(layer)
    return make_case(layer, x, torch.randn(filters * groups, 1) if "scaled" in kind else None)


@st.composite
def folded_layers(draw: st.DrawFn) -> tuple[nn.Module, Tensor, dict]:
    """Layers of one and two axes with blocks of unequal size, and inputs of odd sizes."""
    axes = draw(st.sampled_from([1, 2]))
    one = st.integers(1, 3)
    kernel = tuple(draw(st.integers(1, 18 if axes == 1 else 4)) for _ in range(axes))
    stride, dilation = (tuple(draw(one) for _ in range(axes)) for _ in range(2))
    padding = draw(st.sampled_from([0, 1, 2, "same"])) if max(stride) == 1 else draw(st.integers(0, 2))
    filters, channels = draw(st.integers(4, 40)), draw(st.integers(2, 40))
    overlap = draw(st.sampled_from([None, *(r for r in (1, 2, 4) if r <= torch.Size(kernel).numel())]))
    spec = {"preset": "folded", "options": {} if overlap is None else {"overlap": overlap}}
    made = (SummaryConv1d, SummaryConv2d)[axes - 1]
    mode = draw(st.sampled_from(["zeros", "zeros", "circular"]))
    layer = made(
        channels, filters, kernel, stride, padding, dilation, spec=spec,
        ratio=draw(st.sampled_from([2, 3, 5, 8, 20])), padding_mode=mode,
    )  # fmt: skip
    size = [d * (k - 1) + 1 + draw(st.integers(2, 40)) for k, d in zip(kernel, dilation, strict=True)]
    x = torch.randn(draw(st.sampled_from([1, 2, 5])), channels, *size)
    after = {"relu": draw(st.booleans()), "scale": draw(st.booleans()), "pool": draw(st.sampled_from([1, 2, 3]))}
    return layer, x, after


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest number expected."""
    assert got.shape == expected.shape
    return ((got.double() - expected.double()).abs().max() / expected.double().abs().max().clamp_min(1e-30)).item()
