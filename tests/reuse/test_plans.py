"""Every plan equals the dense convolution, over random shapes and rules."""

import pytest
import torch
from convolutions import Case, cases, make_case, relative_error
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import autosample
from autosample.nn import SummaryConv1d, SummaryConv2d
from autosample.reuse import fused, ops
from autosample.reuse.planner import variants

often = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
needs_kernel = pytest.mark.usefixtures("kernel")


def strided(spatial: int, channel: int) -> autosample.Spec:
    return autosample.spec("wsnet", options={"spatial": spatial, "channel": channel})


def run_fused(case: Case, x: torch.Tensor | None = None, **options) -> torch.Tensor:
    factors = case.factors
    x, task = case.x if x is None else x, case.task
    return fused.window_conv(
        x if task.table is None else ops.place_columns(x, task.table, task.groups),
        fused.pack_bank(case.bank, case.task),
        case.task.rows.contiguous(),
        None if factors is None else factors.detach().contiguous(),
        None,
        fused.make_program(case.task, case.frame, **options),
    )


@often
@given(cases())
def test_operators_equal_dense(case: Case) -> None:
    expected = case.dense()
    for way in variants(case.task, case.x.device, case.x.dtype, fuse=False).values():
        got = ops.convolve(case.x, way.source(case.layer.summary), case.factors, way, case.frame)
        assert relative_error(got, expected) < 1e-6


def run_in_tiles(case: Case, tile: int) -> torch.Tensor:
    before = ops._TILE
    try:
        ops._TILE = tile
        with torch.no_grad():
            return ops.convolve_in_tiles(case.x, case.bank, case.factors, case.task, case.frame)
    finally:
        ops._TILE = before


@settings(often, max_examples=60)
@given(cases(), st.sampled_from([1, 500, 4000]))
def test_tiles_equal_the_whole(case: Case, tile: int) -> None:
    assert relative_error(run_in_tiles(case, tile), case.dense()) < 1e-6


@pytest.mark.parametrize(("preset", "ratio", "taps"), [("wsnet", 1, 2), ("wsnet", 2, 2), ("folded", 2, 3)])
def test_one_column_of_outputs_from_one_channel_a_group(preset: str, ratio: float, taps: int) -> None:
    """torch 2.15 writes a wrong layout here if the filters' axis of one channel has a stride of 1."""
    layer = SummaryConv2d(2, 6, taps, stride=(1, 2), groups=2, bias=False, spec=autosample.spec(preset, ratio=ratio))
    x = torch.randn(1, 2, 7, 3)
    with torch.no_grad(), autosample.nn.execution("reuse"):
        right = torch.nn.functional.conv2d(x.double(), layer.weight.double(), stride=(1, 2), groups=2)
        assert relative_error(layer(x), right) < 1e-6


@pytest.mark.parametrize("preset", ["wsnet", "random"])
def test_tiles_that_are_all_padding_equal_the_whole(preset: str) -> None:
    layer = SummaryConv1d(4, 8, 5, padding=40, bias=False, spec=autosample.spec(preset, ratio=4))
    case = make_case(layer, torch.randn(2, 4, 30))
    assert relative_error(run_in_tiles(case, 1), case.dense()) < 1e-6


@needs_kernel
@often
@given(cases())
def test_the_kernel_equals_dense(case: Case) -> None:
    assert relative_error(run_fused(case), case.dense()) < 1e-6


@needs_kernel
@settings(often, max_examples=40)
@given(cases())
def test_the_kernel_in_bfloat16(case: Case) -> None:
    x = case.x.bfloat16()
    assert relative_error(run_fused(case, x), case.dense()) < 1e-2


def bfloat16_is_right() -> bool:
    """Whether torch convolves in bfloat16: oneDNN does not where a processor has AVX-512, but no bf16 instructions."""
    torch.manual_seed(0)
    x, weight = torch.randn(1, 1, 5).bfloat16(), torch.randn(72, 1, 1).bfloat16()
    return (
        relative_error(torch.nn.functional.conv1d(x, weight), torch.nn.functional.conv1d(x.double(), weight.double()))
        < 1e-2
    )


@pytest.mark.skipif(not bfloat16_is_right(), reason="torch's own convolutions in bfloat16 are wrong on this processor")
@settings(often, max_examples=40)
@given(cases())
def test_operators_in_bfloat16(case: Case) -> None:
    got = ops.convolve(case.x.bfloat16(), case.bank, case.factors, case.task, case.frame)
    assert got.dtype == torch.bfloat16
    assert relative_error(got, case.dense()) < 1e-2


# The cotangent of both tests of gradients is the output: a gradient of half its square, whose product with what it is a
# gradient of is the square itself. It can't cancel out, as the gradient of a summary of two numbers may with a random
# cotangent; then every float32 sum has a large relative error.
@settings(often, max_examples=60)
@given(cases())
def test_gradients_equal_those_of_the_dense_layer(case: Case) -> None:
    layer, x = case.layer, case.x.requires_grad_()
    learned = [x, *layer.parameters()]
    expected = case.dense()
    cotangent = expected.detach()
    wanted = torch.autograd.grad(expected, learned, cotangent)
    plain = torch.autograd.grad(case.dense(torch.float32), learned, cotangent.float())
    for way in variants(case.task, case.x.device, case.x.dtype, fuse=False).values():
        got = ops.convolve(x, way.source(layer.summary), case.factors, way, case.frame)
        for a, b, c in zip(torch.autograd.grad(got, learned, cotangent.float()), wanted, plain, strict=True):
            assert relative_error(a, b) < max(2e-6, 2 * relative_error(c, b))  # torch sums in float32 too


@needs_kernel
@often
@given(cases())
def test_gradients_of_the_kernel(case: Case) -> None:
    layer, x = case.layer, case.x.requires_grad_()
    expected = case.dense()
    cotangent = expected.detach()
    wanted = torch.autograd.grad(expected, [x, layer.summary], cotangent)
    plain = torch.autograd.grad(case.dense(torch.float32), [x, layer.summary], cotangent.float())
    y = fused.convolve(x, case.bank, case.factors, case.task, case.frame)
    assert relative_error(y, expected) < 1e-6
    for a, b, c in zip(torch.autograd.grad(y, [x, layer.summary], cotangent.float()), wanted, plain, strict=True):
        assert relative_error(a, b) < max(1e-6, 2 * relative_error(c, b))


@needs_kernel
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (
            lambda: SummaryConv1d(8, 20, 32, 2, 7, bias=False, spec=strided(32, 4)),
            (3, 8, 9001),
        ),
        (lambda: SummaryConv1d(8, 20, 12, bias=False, spec="random", windows=4, ratio=4), (3, 8, 7001)),
        (
            lambda: SummaryConv2d(6, 40, 3, 1, 1, bias=False, spec=strided(3, 2)),
            (2, 6, 90, 77),
        ),
        (lambda: SummaryConv2d(6, 40, 5, 2, 2, bias=False, spec="random", windows=2, ratio=6), (2, 6, 131, 67)),
    ],
)
def test_many_tiles(layer, shape: tuple[int, ...], threads: int) -> None:
    """Outputs and gradients where a map is cut into tiles, whose borders overlap."""
    torch.manual_seed(0)
    case = make_case(layer(), torch.randn(shape, requires_grad=True))
    expected = case.dense()
    cotangent = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, [case.x, case.layer.summary], cotangent)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        y = fused.convolve(case.x, case.bank, None, case.task, case.frame)
        got = torch.autograd.grad(y, [case.x, case.layer.summary], cotangent.float())
        again = torch.autograd.grad(
            fused.convolve(case.x, case.bank, None, case.task, case.frame), case.layer.summary, cotangent.float()
        )
    finally:
        torch.set_num_threads(before)
    assert relative_error(y, expected) < 1e-6
    for a, b in zip(got, wanted, strict=True):
        assert relative_error(a, b) < 5e-6  # sums over the whole map, in float32
    assert torch.equal(again[0], got[1]), "gradients do not depend on which thread is first"


@pytest.mark.parametrize("how", ["operators", "kernel"])
def test_long_signals_lose_nothing(how: str, request: pytest.FixtureRequest) -> None:
    """300,000 samples with a mean a thousand times their spread: sums are local, so errors do not grow."""
    if how == "kernel":
        request.getfixturevalue("kernel")
    torch.manual_seed(0)
    layer = SummaryConv1d(4, 16, 64, bias=False, spec=strided(32, 2))
    case = make_case(layer, torch.randn(1, 4, 300_000) + 1000)
    with torch.no_grad():
        expected, plain = case.dense(), case.dense(torch.float32)
        got = run_fused(case) if how == "kernel" else ops.convolve(case.x, case.bank, None, case.task, case.frame)
    allowed = relative_error(plain, expected)
    assert relative_error(got, expected) <= max(allowed, 1e-7)


@needs_kernel
@pytest.mark.parametrize("pool", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("length", [40, 41, 1000, 20_001])
def test_the_kernel_ends_with_relu_and_pool(length: int, pool: int) -> None:
    torch.manual_seed(0)
    layer = SummaryConv1d(6, 10, 8, stride=2, bias=False, spec=strided(4, 3))
    case = make_case(layer, torch.randn(2, 6, length))
    with torch.no_grad():
        expected = torch.nn.functional.max_pool1d(case.dense().relu(), pool)
        assert relative_error(run_fused(case, relu=True, pool=pool), expected) < 1e-6


@needs_kernel
@pytest.mark.parametrize("length", [12, 600])
def test_the_kernel_keeps_nan_and_infinity(length: int) -> None:
    layer = SummaryConv1d(2, 4, 4, bias=False, spec=strided(2, 2))
    case = make_case(layer, torch.randn(1, 2, length))
    case.x[0, 0, 5] = float("nan")
    with torch.no_grad():
        got, expected = run_fused(case, relu=True), case.dense(torch.float32).relu()
    assert torch.equal(got.isnan(), expected.isnan())
    assert expected.isnan().any()


@needs_kernel
def test_the_kernel_is_the_same_on_any_number_of_threads() -> None:
    torch.manual_seed(0)
    layer = SummaryConv1d(8, 24, 16, bias=False, spec="random", windows=4, ratio=8)
    case = make_case(layer, torch.randn(3, 8, 5000))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert relative_error(run_fused(case), case.dense()) < 1e-6
    finally:
        torch.set_num_threads(before)


@needs_kernel
def test_what_the_kernel_refuses() -> None:
    layer = SummaryConv1d(4, 8, 4, bias=False, spec=strided(2, 2))
    case = make_case(layer, torch.randn(1, 4, 30))
    assert run_fused(case, case.x[:0]).shape == (0, 8, 27)
    with pytest.raises(RuntimeError, match="can't be larger than the padded input"):
        run_fused(case, case.x[..., :3])
    with pytest.raises(RuntimeError, match="expected 4 input channels"):
        run_fused(case, case.x[:, :3])
    with pytest.raises(RuntimeError, match="float32 and bfloat16"):
        run_fused(case, case.x.double())
    rows = case.task.rows.clone()
    rows[3] = 99
    program, bank = fused.make_program(case.task, case.frame), fused.pack_bank(case.bank, case.task)
    right = {"bank": bank, "rows": case.task.rows, "program": program}
    wrongs = (
        {"rows": rows},
        {"bank": bank[:, :-1].contiguous()},
        {"program": program[:-1]},
        {"program": [*program, 0]},
    )
    for wrong in wrongs:
        with pytest.raises(RuntimeError, match="window_conv"):
            fused.window_conv(case.x, factors=None, bias=None, **{**right, **wrong})
