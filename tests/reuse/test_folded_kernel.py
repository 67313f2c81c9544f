"""Layers with folds in the fused kernel, against torch on the materialised weight in float64."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from convolutions import folded_layers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autosample import convert, deploy
from autosample.nn import SummaryConv1d, SummaryConv2d, SummaryLinear, folding
from autosample.nn.folding import fused_folds, layer_folds
from autosample.nn.planning import layer_frame
from autosample.reuse import fused
from autosample.reuse.after import After
from autosample.reuse.folded_kernel import FusedFoldedLinear, FusedFolds
from autosample.reuse.planner import Plan

pytestmark = pytest.mark.usefixtures("kernel")
TYPES = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


def error(out: Tensor, right: Tensor, size: Tensor | None = None) -> float:
    """Relative to the largest number in `size`, or in what is right."""
    assert out.shape == right.shape
    size = right if size is None else size
    return float((out.double() - right).abs().max() / size.abs().max().clamp_min(1e-30))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(folded_layers())
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.filterwarnings("ignore:a ratio")
def test_it_is_the_convolution_with_the_weight(case):
    layer, x, more = case
    folds = layer_folds(layer)
    if folds is None:  # a single channel group
        return
    frame, pad = layer_frame(layer)
    scale = torch.rand(folds.filters) + 0.5 if more["scale"] else None
    weight = layer.weight.detach().double()
    weight = weight if scale is None else weight * scale.double().view(-1, *[1] * (weight.dim() - 1))
    padded = F.pad(x.double(), *(pad or ([n for pair in reversed(frame.padding) for n in pair],)))
    conv = F.conv1d if x.dim() == 3 else F.conv2d
    right = conv(padded, weight, layer.bias.detach().double(), layer.stride, 0, layer.dilation)
    terms = padded.abs(), weight.abs(), layer.bias.detach().double().abs()
    size = conv(*terms, layer.stride, 0, layer.dilation)  # outputs may cancel out
    pool = more["pool"] if x.dim() == 3 and right.shape[-1] >= more["pool"] else 1
    right = F.relu(right) if more["relu"] else right
    right = F.max_pool1d(right, pool) if pool > 1 else right
    module = fused_folds(layer, folds, frame, pad, After(scale, layer.bias.detach(), more["relu"], pool))
    with torch.no_grad():
        for dtype, most in TYPES.items():
            assert error(module(x.to(dtype)), right, size) < most
        module._ready = False  # standard operators
        assert error(module(x), right, size) < TYPES[torch.float32]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 70), st.integers(2, 70), st.integers(1, 60), st.sampled_from([2, 3, 8, 30]), st.booleans())
@pytest.mark.filterwarnings("ignore:a ratio")
def test_it_is_the_linear_layer_with_the_weight(channels, filters, rows, ratio, relu):
    layer = SummaryLinear(channels, filters, spec="folded", ratio=ratio)
    folds = layer_folds(layer)
    if folds is None:
        return
    x = torch.randn(rows, channels)
    right = F.linear(x.double(), layer.weight.detach().double(), layer.bias.detach().double())
    right = F.relu(right) if relu else right
    terms = x, layer.weight.detach(), layer.bias.detach()
    size = F.linear(*(term.double().abs() for term in terms))  # outputs may cancel out
    module = fused_folds(layer, folds, None, None, After(None, layer.bias.detach(), relu))
    with torch.no_grad():
        for dtype, most in TYPES.items():
            assert error(module(x.to(dtype)), right, size) < most
        assert error(module(x[0]), right[0], size[0]) < TYPES[torch.float32]
        module._ready = False
        assert error(module(x), right, size) < TYPES[torch.float32]


def layers() -> list[tuple[nn.Module, Tensor]]:
    return [
        (SummaryConv2d(16, 24, 3, padding=1, spec="folded", ratio=4), torch.randn(2, 16, 9, 9)),
        (SummaryConv1d(16, 24, 16, spec="folded", ratio=8), torch.randn(2, 16, 60)),
        (SummaryLinear(48, 32, spec="folded", ratio=4), torch.randn(7, 48)),
    ]


def modules():
    for layer, x in layers():
        frame, pad = (None, None) if isinstance(layer, nn.Linear) else layer_frame(layer)
        yield fused_folds(layer, layer_folds(layer), frame, pad, After(None, layer.bias.detach())), layer, x


def test_overlapping_windows_share_their_work():
    module = next(m for m, _, x in modules() if x.dim() == 3)
    assert module.schedule.span > 1
    assert module.bank.shape[1] < 16 * module.folds.columns  # segments are shorter than filters


def test_bank_and_filters_hold_what_is_stored():
    for module, layer, _ in modules():
        assert module.dense_weights == layer.weight.numel()
        assert module.stored_weights <= 1.7 * layer.summary.numel()  # blocks of 8 rows


def test_gradients_and_other_types_take_standard_operators():
    for module, layer, x in modules():
        x = x.requires_grad_()
        (grad,) = torch.autograd.grad(module(x).square().sum(), x)
        (right,) = torch.autograd.grad(layer(x).square().sum(), x)
        torch.testing.assert_close(grad, right, rtol=1e-4, atol=1e-4)
        half = copy.deepcopy(module).half()
        assert half.bank.dtype == torch.float32
        with torch.no_grad():
            assert error(half(x.half()), layer(x).double()) < 1e-2


def test_copies_and_state_dicts_compute_the_same():
    for module, _, x in modules():
        with torch.no_grad():
            right = module(x)
            assert torch.equal(copy.deepcopy(module)(x), right)
            state = io.BytesIO()
            torch.save(module.state_dict(), state)
            state.seek(0)
            other = copy.deepcopy(module)
            other.bank.zero_()
            other.load_state_dict(torch.load(state, weights_only=True))
            assert torch.equal(other(x), right)


def test_threads_compute_the_same():
    before = torch.get_num_threads()
    try:
        for module, _, x in modules():
            wide = torch.cat([x] * 40)
            with torch.no_grad():
                torch.set_num_threads(1)
                right = module(wide)
                torch.set_num_threads(2)
                assert torch.equal(module(wide), right)
    finally:
        torch.set_num_threads(before)


def test_exported_programs_compute_the_same():
    for module, _, x in modules():
        with torch.no_grad():
            assert error(torch.export.export(module.eval(), (x,)).module()(x), module(x).double()) < 1e-6


def test_deploy_takes_it_if_it_is_faster():
    model = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU()).eval()
    changed, _ = convert(model, "folded", ratio=8)
    fast = deploy(changed, torch.randn(1, 128, 14, 14), measure=False)
    assert isinstance(fast[0], FusedFolds)
    assert "relu" in str(fast[0])
    slow = deploy(changed, torch.randn(1, 128, 14, 14), measure=False, fuse=False)
    assert not isinstance(slow[0], FusedFolds)
    linear, _ = convert(nn.Sequential(nn.Linear(512, 512)), "folded", ratio=8)
    assert isinstance(deploy(linear, torch.randn(64, 512), measure=False)[0], FusedFoldedLinear)


def test_measurements_of_layers_that_overlap_differently_are_kept_apart(monkeypatch):
    keys = []
    monkeypatch.setattr(folding, "timed", lambda key, *rest: (keys.append(key), (Plan("dense", ""), None))[1])
    for overlap in (1, 4):
        layer = SummaryConv1d(16, 32, 16, spec="folded", ratio=16, windows=4, options={"overlap": overlap}).eval()
        layer.plan(torch.randn(1, 16, 50), After(), nn.Identity, measure=True, fuse=True)
    assert len(set(keys)) == 2


@pytest.mark.parametrize("wrong", [[], [48, 4, 12, 4, 32], [48, 4, 12, 4, 32, 2], [48, 4, 12, 33, 32, 0],
                                   [48, 4, 11, 4, 32, 0], [0, 4, 12, 4, 32, 0], [48, 4, 12, 4, 2**25, 0],
                                   [48, 5, 12, 4, 32, 0], [48, 4, 2**23, 4, 32, 0]])  # fmt: skip
def test_broken_programs_are_refused(wrong):
    module, _, x = list(modules())[2]
    with pytest.raises(RuntimeError, match="folded_linear"):
        torch.ops.autosample.folded_linear(x, module.bank, module.bias, wrong)


def test_the_kernel_has_no_gradient_for_folds():
    module, _, x = next(modules())
    grad = torch.randn(2, 24, 9, 9)
    with pytest.raises(RuntimeError, match="the program of a layer by itself"):
        torch.ops.autosample.window_conv_backward(grad, x, module.bank, module.rows, None, module.program, True, True)


def test_folds_of_a_program_are_checked():
    module, _, x = next(modules())
    place = fused.Header._fields.index
    for name, wrong in (("folds", 9), ("folds", 2**23), ("rows", 9), ("fold", 0), ("groups", 2)):
        code = list(module.program)
        code[place(name)] = wrong
        with pytest.raises(RuntimeError, match="window_conv"):
            fused.window_conv(x, module.bank, module.rows, None, module.bias, code)
