"""A layer computes the same whichever way it is told to."""

import copy

import pytest
import torch

import autosample
from autosample.errors import SpecError
from autosample.nn import SummaryConv1d, SummaryConv2d, SummaryConv3d, SummaryConvTranspose1d, execution
from autosample.reuse import fused

S8C4 = {"spec": "wsnet", "options": {"spatial": 8, "channel": 4}}
in_reuse = execution("reuse")
PRESETS = [p for p in autosample.PRESETS if p not in ("dense", "nes")]
KINDS = {
    "1d": (lambda **k: SummaryConv1d(12, 24, 8, stride=2, padding=3, **k), (2, 12, 400)),
    "1d grouped": (lambda **k: SummaryConv1d(12, 24, 6, groups=2, dilation=2, bias=False, **k), (2, 12, 300)),
    "1d reflect": (lambda **k: SummaryConv1d(12, 24, 8, padding=4, padding_mode="reflect", **k), (2, 12, 200)),
    "2d": (lambda **k: SummaryConv2d(12, 24, 3, padding=1, **k), (2, 12, 20, 17)),
    "2d stride": (lambda **k: SummaryConv2d(12, 24, (3, 5), stride=(2, 1), padding="valid", **k), (2, 12, 21, 30)),
}


def both_ways(layer, x) -> list[list[torch.Tensor]]:
    """Output and gradients by reuse and from the weight."""
    results = []
    for way in ("reuse", "materialize"):
        layer.zero_grad()
        given = x.clone().requires_grad_()
        with execution(way):
            y = layer(given)
        y.square().sum().backward()
        results.append([y.detach(), given.grad, *(p.grad for p in layer.parameters() if p.grad is not None)])
    return results


def assert_alike(layer, x) -> None:
    for a, b in zip(*both_ways(layer, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", PRESETS)
def test_reuse_equals_the_weight(preset: str, kind: str) -> None:
    torch.manual_seed(0)
    make, shape = KINDS[kind]
    layer = make(spec=autosample.spec(preset, ratio=8))
    x = torch.randn(shape)
    assert_alike(layer, x)
    layer.harden_()
    assert_alike(layer, x)


@pytest.mark.parametrize(
    "changes",
    [
        {"signs": "random"},
        {"signs": "random", "windows": 1},
        {"columns": "shuffle"},
        {"columns": "table"},
        {"signs": "random", "columns": "shuffle"},
        {"preset": "wsnet", "denser": 2, "ratio": None, "options": {"spatial": 2, "channel": 2}},
        {"preset": "wsnet", "denser": 2, "signs": "random"},
    ],
    ids=str,
)
def test_all_that_acts_on_a_weight(changes: dict) -> None:
    torch.manual_seed(0)
    layer = SummaryConv1d(12, 24, 8, padding=3, spec={"preset": "random", "ratio": 6} | changes)
    assert_alike(layer, torch.randn(2, 12, 300))


def reuses(layer, x) -> bool:
    """Whether the forward pass leaves the weight alone."""
    read = []

    class Watched(type(layer)):
        @property
        def weight(self):
            read.append(True)
            return super().weight

    watched = copy.deepcopy(layer)
    watched.__class__ = Watched
    watched(x)
    return not read


def test_auto_takes_what_pays() -> None:
    large, small = torch.randn(4, 32, 4000), torch.randn(1, 32, 40)
    layer = SummaryConv1d(32, 64, 32, **S8C4)
    assert reuses(layer, large)
    assert not reuses(layer, small)
    assert not reuses(SummaryConv1d(32, 64, 32, spec="hashednet", ratio=8), large)
    with execution("materialize"):
        assert not reuses(layer, large)
        with execution("reuse"):
            assert reuses(layer, small)
        assert not reuses(layer, large)
    with pytest.raises(RuntimeError, match="mine"), execution("reuse"):
        raise RuntimeError("mine")
    assert not reuses(layer, small)


def test_a_way_that_there_is_not() -> None:
    message = r"one of auto, materialize, reuse, got 'reuze': did you mean \"reuse\""
    with pytest.raises(SpecError, match=message), execution("reuze"):  # pyright: ignore[reportArgumentType]
        pass


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (SummaryConv3d(4, 16, 3, padding=1, spec="wsnet", ratio=4), (1, 4, 8, 8, 8)),
        (SummaryConvTranspose1d(32, 16, 16, stride=2, spec="wsnet", ratio=8), (1, 32, 400)),
    ],
)
def test_layers_without_a_reuse_of_their_own_take_the_weight(layer, shape) -> None:
    x = torch.randn(shape)
    with execution("reuse"):
        assert not reuses(layer, x)
        y = layer(x)
    assert torch.equal(y, layer(x))


@in_reuse
def test_offsets_that_are_still_learned_materialize() -> None:
    layer = SummaryConv1d(16, 32, 16, spec="autosample", ratio=32, grid=4, options={"afford": 10})
    x = torch.randn(2, 16, 400)
    assert not reuses(layer, x)
    layer.freeze_()
    assert reuses(layer, x)
    torch.testing.assert_close(layer(x), torch.nn.functional.conv1d(x, layer.weight, layer.bias), rtol=1e-4, atol=1e-5)


@in_reuse
def test_new_offsets_are_noticed() -> None:
    """Loading other offsets makes the layer compute with them, not with those it remembers."""
    layers = [SummaryConv1d(8, 16, 8, spec="random", ratio=6, seed=seed) for seed in (0, 1)]
    x = torch.randn(1, 8, 100)
    before = [layer(x) for layer in layers]
    assert not torch.allclose(*before)
    layers[0].load_state_dict(layers[1].state_dict())
    torch.testing.assert_close(layers[0](x), before[1])


@in_reuse
def test_copies_and_state_know_nothing_of_it() -> None:
    layer = SummaryConv1d(8, 16, 8, spec="wsnet", ratio=4)
    names = list(layer.state_dict())
    layer(torch.randn(1, 8, 100))
    assert list(layer.state_dict()) == names
    twin = copy.deepcopy(layer)
    torch.testing.assert_close(twin(torch.ones(1, 8, 50)), layer(torch.ones(1, 8, 50)))


@pytest.mark.parametrize("way", ["reuse", "auto"])
def test_transforms_and_compilers(way) -> None:
    with execution(way):
        check_transforms_and_compilers()


def check_transforms_and_compilers() -> None:
    layer = SummaryConv1d(16, 32, 16, **S8C4)
    x = torch.randn(3, 16, 2000)
    expected = layer(x)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")(x)
    torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-4)
    exported = torch.export.export(layer, (x,)).module()(x)
    torch.testing.assert_close(exported, expected, rtol=1e-4, atol=1e-4)
    parameters = dict(layer.named_parameters())

    def loss(p, one):
        return torch.func.functional_call(layer, p, (one[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)["summary"]
    loss(parameters, x[0]).backward()
    torch.testing.assert_close(each[0], layer.summary.grad, rtol=1e-3, atol=1e-3 * float(each[0].detach().abs().max()))


@in_reuse
def test_autocast() -> None:
    layer = SummaryConv1d(16, 32, 16, **S8C4)
    x = torch.randn(2, 16, 500)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "why_not", lambda: "no compiler")
    torch.manual_seed(0)
    assert_alike(SummaryConv1d(16, 32, 16, **S8C4), torch.randn(2, 16, 900))
