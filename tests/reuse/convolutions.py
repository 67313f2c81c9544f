"""Random convolutions for the tests of the reuse engine."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import autosample
from autosample.nn import SummaryConv1d, SummaryConv2d
from autosample.nn.execution import layer_frame, layer_task
from autosample.reuse.schedule import Frame
from autosample.reuse.task import Task

SPECS = {
    "strided": {"preset": "wsnet"},
    "strided flat gains": {"preset": "wsnet", "gains": "filter"},
    "shuffled columns": {"preset": "wsnet", "columns": "shuffle"},
    "free": {"preset": "random"},
    "free, gains and signs": {"preset": "random", "gains": "window", "signs": "random"},
    "free, shuffled columns": {"preset": "random", "columns": "shuffle"},
    "free on a grid": {"preset": "random", "grid": 2},
    "free on kernel rows": {"preset": "random", "grid": 3},
    "wide": {"preset": "wsnet", "across": "random", "spread": 0.4},
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

    @property
    def bank(self) -> Tensor:
        return self.task.source(self.layer.summary)

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """What torch makes of the materialised weight."""
        layer, conv = self.layer, nn.functional.conv1d if self.x.dim() == 3 else nn.functional.conv2d
        x = nn.functional.pad(self.x.to(dtype), layer._reversed_padding_repeated_twice)
        return conv(x, layer.weight.to(dtype), None, layer.stride, 0, layer.dilation, layer.groups)


def make_case(layer: SummaryConv1d | SummaryConv2d, x: Tensor) -> Case:
    task = layer_task(layer)
    assert task is not None
    return Case(layer, x, task, layer_frame(layer)[0])


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
    spec = dict(SPECS[draw(st.sampled_from(sorted(SPECS)))])
    if spec["preset"] == "wsnet":
        sizes = {"spatial": draw(st.sampled_from([1, 2, 4])), "channel": windows}
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
    if layer.gains is not None:
        nn.init.normal_(layer.gains)
    return make_case(layer, x)


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest number expected."""
    assert got.shape == expected.shape
    return ((got.double() - expected.double()).abs().max() / expected.double().abs().max().clamp_min(1e-30)).item()
