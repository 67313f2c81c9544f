"""How a layer with folds computes its output: from signed sums of its input's channel groups, never from its weight."""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from autosample.nn.facts import Operations
from autosample.nn.kinds import KINDS, is_plain
from autosample.nn.planning import layer_frame
from autosample.nn.taps import seen_taps
from autosample.reuse import fused
from autosample.reuse.after import After
from autosample.reuse.folded import FoldedConv, FoldedLinear, ways
from autosample.reuse.folded_kernel import FusedFoldedLinear, FusedFolds, shared_segments, whole_filters
from autosample.reuse.layer import in_autocast
from autosample.reuse.planner import MARGIN, Plan, timed
from autosample.reuse.schedule import Frame
from autosample.reuse.timings import signature
from autosample.sampling.folds import Folds, convolve, multiply, multiply_maps
from autosample.sampling.mixture import mean_maps, mean_rows
from autosample.sampling.rules.blocks import apart
from autosample.sampling.windows import Placement, cut_windows

# Costs in multiply-adds of a convolution: a call of the operators, and one number moved.
_CALL, _MOVE = 1e6, 12
# Up to so many channels, and from so many in a group on, oneDNN trains a convolution faster with the whole weight.
_FEW, _WIDE = 32, 5
# Names of plans.
_KINDS = {"grouped": "folded", "last": "folded last", "product": "folded product"}
_CLASSES = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def layer_folds(layer: Any) -> Folds | None:
    """The folds of a layer that can compute by them; `None` for all other layers."""
    kind: type[nn.Module] = layer.dense_class
    if not issubclass(kind, _CLASSES) or not is_plain(kind):
        return None
    if layer.densify is not None or layer.columns is not None or layer.spec.signs != "none":
        return None
    return layer.folds


def folded_filters(layer: Any, summary: Float[Tensor, "l q"]) -> Float[Tensor, "n q *kernel"]:
    """One window of the summary per filter, as the filters of a convolution with `Q` channels."""
    g = layer.geometry
    if apart(g):
        windows = summary.view(g.sampled, g.taps, g.columns).transpose(1, 2)
    else:
        windows = cut_windows(summary, Placement(layer.offsets.placement().base[:, :1]), g.taps)
    return windows.reshape(g.sampled, g.columns, *g.kernel)


def folded_forward(layer: Any, x: Tensor) -> Tensor | None:
    """The layer's output; `None` if torch should compute it from the weight, or judge the input."""
    folds = layer_folds(layer)
    if layer.offsets.moves is not None and layer.offsets.moves.watches:
        return None  # only the weight has a sign for each filter
    axes = KINDS[next(kind for kind in KINDS if issubclass(layer.dense_class, kind))]
    if folds is None or not isinstance(x, Tensor) or x.dim() < max(axes + 1, 1):
        return None
    channel = -1 if axes == 0 else -axes - 1
    if (x.dim() > axes + 2 and axes) or x.shape[channel] != folds.channels * folds.groups:
        return None
    if axes and x.dim() == axes + 1:
        out = folded_forward(layer, x.unsqueeze(0))
        return None if out is None else out.squeeze(0)
    selection = layer.offsets.selection()
    x = selection.inputs(x, channel, folds.groups)
    filters = selection.sort(folded_filters(layer, layer.summary_in_use()))
    matrix = _matrix(layer, folds, x, filters.dtype)
    bias = None if layer.bias is None else selection.sort(layer.bias)
    if axes == 0:
        return selection.outputs(multiply(x, folds.spread(filters), bias, matrix, folds), -1)
    filters = folds.spread(seen_taps(layer, x, filters))
    bias = None if bias is None else folds.spread(bias)
    padding = layer.padding
    if layer.padding_mode != "zeros":
        x, padding = F.pad(x, layer._reversed_padding_repeated_twice, layer.padding_mode), (0,) * axes
    x = in_autocast(x)
    if filters[0, 0].numel() == 1 and padding in ("valid", "same", (0,) * axes):
        y = multiply_maps(x, filters, bias, matrix, folds, layer.stride)
    else:
        # oneDNN trains small groups up to three times faster like this; `vmap` has no such layout
        last = axes == 2 and x.device.type == "cpu" and not torch._C._are_functorch_transforms_active()
        y = convolve(x, filters, bias, matrix, folds, layer.stride, padding, layer.dilation, last)
    return selection.outputs(y, 1)


def trains_from_weight(layer: Any, x: Tensor) -> bool:
    """Whether a layer with folds trains faster from its weight: a small convolution on a processor."""
    folds = layer_folds(layer)
    if folds is None or x.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    return layer.geometry.taps > 1 and folds.channels <= _FEW and folds.columns >= _WIDE


def _matrix(layer: Any, folds: Folds, x: Tensor, dtype: torch.dtype) -> Float[Tensor, "*r b g"]:
    """The signs of the blocks, or those of each example."""
    if (mixture := layer.offsets.mixture) is None:
        return layer.offsets.matrix(dtype, x.device)
    means = mean_rows(x, folds) if issubclass(layer.dense_class, nn.Linear) else mean_maps(x, folds)
    return mixture(means, mixture.signs(means.dtype, x.device))


def signs_of(layer: Any, dtype: torch.dtype) -> Float[Tensor, "n g"] | None:
    """The signs of a layer's folds as factors of its windows; `None` without folds."""
    folds: Folds | None = layer.folds
    if folds is None:
        return None
    matrix = layer.offsets.matrix(dtype, layer.summary.device)
    signs = layer.offsets.selection().outputs(matrix.index_select(0, folds.block(matrix.device)), 0)
    return signs if layer.offsets.moves is None else layer.offsets.moves.watched(signs)


def folded_plan(
    layer: Any,
    folds: Folds,
    x: Tensor | None,
    after: After,
    dense: Callable[[], nn.Module],
    *,
    measure: bool,
    fuse: bool,
) -> tuple[Plan, nn.Module | None]:
    """The plan of a layer with folds for an input like `x`; arguments and result as for `summary_plan`."""
    axes = len(layer.geometry.kernel)
    known = x if x is not None and x.dim() > axes else None
    if known is None and layer.has_weight:
        return Plan("dense", "the example does not reach it"), None
    frame, pad = (None, None) if axes == 0 else layer_frame(layer)
    costs, saving = _costs(layer, folds, known, frame)
    if not layer.has_weight:
        module = _modules(layer, folds, frame, pad, after, fuse=False)["folded"]
        return Plan("folded", "its weight depends on the input", saving=saving), module
    x = cast(Tensor, known)
    if not measure and costs[0] > MARGIN * costs[1]:
        return Plan("dense", f"the best other plan, folded, is predicted at {costs[1] / costs[0]:.2f}x"), None
    # the kernel knows only rows of a Hadamard matrix
    fuse = fuse and layer.offsets.signs is None and fused.takes(x.device, x.dtype)
    modules = _modules(layer, folds, frame, pad, after, fuse=fuse)
    if not measure:
        kind = "folded fused" if "folded fused" in modules else "folded"
        return Plan(kind, f"{costs[1] / costs[0]:.1f}x predicted", saving=saving), modules[kind]
    shape = tuple(x.shape) if axes == 0 or x.dim() > axes + 1 else (1, *x.shape)
    selection = layer.offsets.selection()
    key = signature(
        x.device,
        x.dtype,
        fused.version() if fuse else "",
        folds,
        frame,
        pad,
        layer.geometry,  # how far windows overlap decides too
        selection.slots is not None,
        selection.channels is not None,
        shape,
        after.relu,
        after.pool,
    )
    return timed(key, modules, dense, x.new_empty(()).expand(shape), dict.fromkeys(modules, saving))


def folded_operations(folds: Folds, taps: int, counted: int, read: int, made: int) -> Operations:
    """Operations of a layer with folds of so many taps; for the counts see `Compressed.operations`."""
    # each block adds up the channel groups at every place of the input, then its filters see one group
    places = read // (folds.channels * folds.groups)
    products = made * taps * folds.columns
    sums = places * folds.groups * folds.blocks * folds.columns * (folds.windows - 1)
    return Operations(counted, products, products + sums)


def _costs(layer: Any, folds: Folds, x: Tensor | None, frame: Frame | None) -> tuple[tuple[float, float], float]:
    """Costs of the folds and of the dense layer for an input like `x`, and the multiply-adds of these, as a ratio."""
    if x is None:
        return (0.0, 0.0), 1.0
    axes = 0 if frame is None else len(frame.kernel)
    places = x.numel() // (folds.channels * folds.groups)
    out = places if frame is None else places * math.prod(frame.out(x.shape[-axes:])) / math.prod(x.shape[-axes:])
    macs = float(layer.geometry.taps * layer.geometry.filters * out)
    sums = places * folds.groups * folds.blocks * folds.columns
    read, made = places * folds.groups * folds.channels, layer.geometry.filters * out
    selection = layer.offsets.selection()
    again = 2 * read * (selection.channels is not None) + 2 * made * (selection.slots is not None)
    costs = (
        macs * folds.columns + sums * folds.windows + _MOVE * (2 * sums + read + made + again) + _CALL,
        macs * folds.channels + _MOVE * (read + made) + _CALL / 2,
    )
    return costs, macs * folds.channels / max(macs * folds.columns + sums * folds.windows, 1)


def _modules(
    layer: Any, folds: Folds, frame: Frame | None, pad: Any, after: After, *, fuse: bool
) -> dict[str, nn.Module]:
    """The inference modules that compute the layer, by kind of plan."""
    filters, bias = _filters(layer, after)
    own = {"bias": bias, "relu": after.relu, "selection": layer.offsets.selection(), "mixture": layer.offsets.mixture}
    own["signs"] = None if layer.offsets.signs is None else layer.offsets.matrix(filters.dtype).detach()
    modules: dict[str, nn.Module] = {}
    if fuse and folds.groups == 1 and (frame is None or len(frame.kernel) < 3) and fused.available():
        modules["folded fused"] = fused_folds(layer, folds, frame, pad, after)
    if frame is None:
        return {"folded": FoldedLinear(folds, filters, **own), **modules}
    more = {**own, "pad": pad, "pool": after.pool}
    return {
        **{_KINDS[way]: FoldedConv(folds, frame, filters, **more, way=way) for way in ways(frame)},
        **modules,
    }


def _filters(layer: Any, after: After) -> tuple[Float[Tensor, "n q *kernel"], Float[Tensor, " n"] | None]:
    """The filters and the bias, sorted by block, with a norm folded in."""
    selection = layer.offsets.selection()
    filters = folded_filters(layer, layer.summary.detach())
    if after.scale is not None:
        filters = filters * after.scale.to(filters).view(-1, *[1] * (filters.dim() - 1))
    return selection.sort(filters), None if after.shift is None else selection.sort(after.shift.to(filters.dtype))


def fused_folds(
    layer: Any, folds: Folds, frame: Frame | None, pad: Any, after: After
) -> FusedFolds | FusedFoldedLinear:
    """The module that computes a layer of one convolution group in the fused kernel; `frame` is `None` if linear."""
    filters, bias = _filters(layer, after)
    selection = layer.offsets.selection()
    if frame is None:
        return FusedFoldedLinear(folds, filters, bias=bias, relu=after.relu, selection=selection)
    more = {"bias": bias, "pad": pad, "relu": after.relu, "pool": after.pool, "selection": selection}
    shared = shared_segments(folds, frame, layer.summary, selection.sort(layer.offsets.placement().base[:, 0]))
    if shared is None:
        return FusedFolds(folds, frame, whole_filters(folds, frame, filters), **more)
    factors = None if after.scale is None else selection.sort(after.scale[:, None])
    return FusedFolds(folds, frame, shared, factors=factors, **more)
