"""From a spec and the shape of a weight to a `Geometry`: `ratio` decides what the user does not set."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from autosample.errors import SpecError
from autosample.sampling.checks import Number
from autosample.sampling.geometry import Geometry, kind_of
from autosample.sampling.rules import RULES, Lattice, Offsets
from autosample.sampling.spec import Spec

# Learned offsets may take up to this share of the bits of a float32 summary before G is lowered, unless the spec sets
# another limit.
_POSITION_SHARE = 0.5
# Denser sampling pays for its mixing matrix; it is used only if that costs at most this share of the dense weights.
_MIXING_SHARE = 0.25
# Integer strides rarely meet a ratio exactly: errors up to this (in log) count as equal, and shape decides.
_CLOSE = 0.05
# Channel compactness tried: every number up to this, and every divisor of the channels.
_TRIED_WINDOWS = 64
_DEFAULT_WINDOWS = {"conv1d": 16, "conv2d": 8, "conv3d": 8, "pointwise": 4, "linear": 8}


def plan_geometry(spec: Spec, shape: Sequence[int], bits: int = 32) -> Geometry:
    """Sizes of the summary that `spec` gives to a weight of the torch shape `(N, M, *kernel)`.

    A ratio beyond what the layer allows is lowered to the largest possible one; compare `Geometry.ratio`.

    Raises:
        SpecError: Neither `ratio` nor `spatial`/`channel` is set, or `windows` exceeds what a filter can be cut into.
    """
    return _plan(settle(spec, shape, bits), shape)


def settle(spec: Spec, shape: Sequence[int], bits: int = 32) -> Spec:
    """The spec for one weight of the torch shape `(N, M, *kernel)`; only sizes are open.

    `by_kind` is applied. If learned offsets would take more than `afford` of the summary's bits, the rule is `random`.

    Args:
        spec: Spec for all layer kinds.
        shape: Shape of the weight.
        bits: Planned bits per stored number; fewer than 32 if the model will be quantised.
    """
    own = spec.for_kind(kind_of(tuple(int(size) for size in shape[2:])))
    afford = getattr(own.settings, "afford", None)  # an option of learned rules only
    if afford is None:
        return own
    planned = _plan(own, shape)
    affordable = afford * bits * planned.length * planned.columns
    if offset_bits(own, planned) > affordable:
        return own.replace(rule="random")
    return own.replace(options={"afford": None})


def offset_bits(spec: Spec, planned: Geometry) -> int:
    """Bits of stored offsets that the spec's rule has learned."""
    return _rule(spec).chosen_bits(spec.settings, Lattice.of(planned))


def _plan(resolved: Spec, shape: Sequence[int]) -> Geometry:
    """The geometry for a spec whose `by_kind` is already applied."""
    filters, channels, *kernel = (int(size) for size in shape)
    if not resolved.sized:
        raise SpecError(f'preset "{resolved.preset}" needs a size, got none: pass ratio=8')
    layout = resolved.layout
    if layout == "auto":
        layout = "taps" if math.prod(kernel) > 1 else "flat"
    bare = Geometry(
        layout=layout,
        filters=filters,
        channels=channels,
        kernel=tuple(kernel),
        windows=1,
        length=1,
        grid=1 if resolved.grid == "window" else resolved.grid,
        sampled=filters,
    )
    if (own := _rule(resolved).sizes(resolved, bare)) is not None:
        return own
    return _strided(resolved, bare) if _is_strided(resolved) else _free(resolved, bare)


def _is_strided(spec: Spec) -> bool:
    """Whether filter `n` starts at `n·S` in every window, so an integer stride gives the summary's length."""
    return _rule(spec).spaced and spec.grid != "window"


def _rule(spec: Spec) -> type[Offsets]:
    rule = RULES[spec.rule]
    if not issubclass(rule, Offsets):
        raise SpecError(f"a summary layer needs a rule for offsets, got {spec.rule}: call convert_ on the dense layer")
    return rule


def _most_windows(bare: Geometry) -> int:
    return bare.channels if bare.layout == "taps" else bare.channels * bare.taps


def _fixed_windows(spec: Spec, bare: Geometry) -> int | None:
    """`G` if the spec sets it, as a number or by the window's length."""
    most = _most_windows(bare)
    if spec.window is not None and bare.layout == "flat":
        row = bare.kernel[-1] if bare.taps > 1 else min(4, bare.channels)
        return -(-most // min(row if spec.window == "row" else spec.window, most))
    if spec.windows is not None and spec.windows > most:
        raise SpecError(f"windows must be at most {most} for this layer, got {spec.windows}: pass a smaller number")
    return spec.windows


# --- integer strides: WSNet and FSNet -------------------------------------------------------------------------------


def _strided(spec: Spec, bare: Geometry) -> Geometry:
    if spec.ratio is None:
        return _by_compactness(spec, bare)
    dense = replace(bare, sampled=spec.denser * bare.filters) if spec.denser > 1 else bare
    options = list(_strides(spec, dense if _mixing_pays(dense) else bare))
    best = min(options, key=lambda option: _preference(option, float(spec.ratio or 1)))
    return _with_any_stride(spec, best) if spec.settings.strides == "any" else best


def _with_any_stride(spec: Spec, whole: Geometry) -> Geometry:
    """The same windows over a summary whose length follows from the ratio; the rule spreads them evenly.

    Never shorter than at a stride of one: filters with the same offset are equal, and a classifier cannot work with
    those.
    """
    mixing = whole.stored - whole.length * whole.columns
    length = round((whole.dense / (spec.ratio or 1.0) - mixing) / whole.columns)
    return replace(whole, length=max(length, whole.window + (whole.sampled - 1) * whole.grid))


def _with_stride(cut: Geometry, stride: int) -> Geometry:
    """`L = K + (N − 1)·S` (WSNet, section 3; FSNet's `C_out` segments too)."""
    return replace(cut, length=cut.window + (cut.sampled - 1) * stride)


def _strides(spec: Spec, bare: Geometry) -> Iterator[Geometry]:
    """For each channel compactness, the strides just below and above the requested ratio."""
    fixed = _fixed_windows(spec, bare)
    for count in [fixed] if fixed else _splits(_most_windows(bare)):
        cut = replace(bare, windows=count)
        budget = (bare.dense / (spec.ratio or 1.0) - (cut.stored - cut.columns)) / cut.columns
        exact = (budget - cut.window) / max(cut.sampled - 1, 1)
        low = max(int(exact) // bare.grid, 1) * bare.grid
        yield from (_with_stride(cut, stride) for stride in (low, low + bare.grid))


def _preference(option: Geometry, ratio: Number) -> tuple[float, float, float]:
    """Nearest ratio first; if equal, spread the compactness over both axes, or keep flat filters whole."""
    miss = abs(math.log(option.ratio / ratio))
    along = max(option.ratio / option.windows, 1.0)
    uneven = math.log(option.windows) if option.layout == "flat" else abs(math.log(along / option.windows))
    return max(miss - _CLOSE, 0.0), uneven, miss


def _by_compactness(spec: Spec, bare: Geometry) -> Geometry:
    """WSNet's own terms: `S = ⌈K / spatial⌉`, and the largest `C` up to `channel` that divides the channels."""
    most = spec.settings.channel or 1
    count = max(divisor for divisor in _divisors(_most_windows(bare)) if divisor <= most)
    cut = replace(bare, windows=count)
    stride = -(-cut.window // (spec.settings.spatial or 1))
    dense = replace(cut, sampled=spec.denser * cut.filters)
    if spec.denser > 1 and stride > 1 and _mixing_pays(dense):
        return _with_stride(dense, stride // spec.denser or 1)
    return _with_stride(cut, stride)


def _mixing_pays(dense: Geometry) -> bool:
    return dense.filters * dense.sampled <= _MIXING_SHARE * dense.dense


def _splits(number: int) -> list[int]:
    """Numbers of windows to try, such that no window is empty if a filter is cut into equal windows."""
    small = [g for g in range(1, min(number, _TRIED_WINDOWS) + 1) if -(-number // -(-number // g)) == g]
    return sorted({*small, *_divisors(number)})


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


# --- free offsets: everything else ----------------------------------------------------------------------------------


def _free(spec: Spec, bare: Geometry) -> Geometry:
    fixed = _fixed_windows(spec, bare)
    if fixed is not None:
        return _with_budget(spec, bare, fixed)
    count = min(_default_windows(spec, bare), _most_windows(bare))
    while count > 1 and _too_many_offsets(spec, _with_budget(spec, bare, count)):
        count //= 2
    while not _fits(spec, replace(bare, windows=count)) and count < _most_windows(bare):
        count = min(2 * count, _most_windows(bare))
    return _with_budget(spec, bare, count)


def _default_windows(spec: Spec, bare: Geometry) -> int:
    if bare.layout == "flat" and _learns_from_strided(spec):
        return 1  # like FSNet: windows of one filter with equal offsets would repeat each other
    return _DEFAULT_WINDOWS[kind_of(bare.kernel)]


def _learns_from_strided(spec: Spec) -> bool:
    return _is_learned(spec) and not _rule(spec).watches_input and spec.settings.start == "strided"


def _is_learned(spec: Spec) -> bool:
    return _rule(spec).learned


def _budget(spec: Spec, cut: Geometry) -> int:
    """Rows of the summary at the requested ratio."""
    return round(cut.dense / (spec.ratio or 1.0) / cut.columns)


def _fits(spec: Spec, cut: Geometry) -> bool:
    """Whether the budget holds two windows, so windows can differ."""
    return _budget(spec, cut) >= 2 * cut.window


def _with_budget(spec: Spec, bare: Geometry, count: int) -> Geometry:
    most = _most_windows(bare)
    count = -(-most // -(-most // count))  # equal windows cover the filter; none may start after its end
    cut = replace(bare, windows=count)
    grid = cut.window if spec.grid == "window" else spec.grid
    length = _budget(spec, cut)
    if spec.grid == "window":
        length = max(round(length / grid), 1) * grid
    least = cut.window + _room(spec, cut) * grid
    return replace(cut, grid=grid, length=max(length, least))


def _room(spec: Spec, cut: Geometry) -> int:
    """Grid steps that windows need after the first offset.

    Filters of one window are equal if they have the same offset, so an even start gives each its own.
    """
    if cut.windows == 1 and _learns_from_strided(spec):
        return cut.sampled - 1
    return 0 if _rule(spec).spaced else 1


def _too_many_offsets(spec: Spec, planned: Geometry) -> bool:
    if not _is_learned(spec) or spec.settings.afford is not None:
        return False
    # a whole table, also for rules that need less: windows of earlier versions' checkpoints must not change
    return Lattice.of(planned).table_bits > _POSITION_SHARE * 32 * planned.length * planned.columns
