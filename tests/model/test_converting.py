"""What a conversion does to a layer."""

import copy
import warnings

import pytest
import torch
from every_spec import PRESETS_WITH_WEIGHT
from nets import NAMES, Net, distance, image, row
from torch import nn

from autosample import PRESETS, convert, convert_, harden_, report
from autosample.nn import SummaryLayer, compressed_layers
from autosample.sampling.spec import Spec


def test_convert_leaves_the_original_untouched():
    model = Net()
    before, kinds = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    x = image()
    out = model.eval()(x)
    twin, result = convert(model, "autosample", ratio=4, warm_start=True)
    assert set(compressed_layers(twin)) == set(NAMES)
    assert result == report(twin)
    assert [type(m) for m in model.modules()] == kinds
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert torch.equal(model(x), out)
    # and nothing is shared with it
    storages = {p.data_ptr() for p in model.parameters()}
    assert not storages & {p.data_ptr() for p in twin.parameters()}
    # of its rows, none remembers a reason
    assert {r.note for r in report(model).rows if r.kind} == {""}


def test_modules_keep_their_identity_hooks_and_biases():
    model = Net()
    conv, calls = model.block.conv1, []
    conv.register_forward_hook(lambda *args: calls.append(1))
    bias = conv.bias
    convert_(model, ratio=4)
    assert model.block.conv1 is conv
    assert conv.bias is bias
    model(image())
    assert calls == [1]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(64, 32), (5, 64)),
        (nn.Conv1d(16, 32, 9, padding="same"), (2, 16, 20)),
        (nn.Conv2d(16, 32, 3, bias=False), (2, 16, 6, 6)),
        (nn.Conv3d(8, 16, 3, bias=False), (2, 8, 4, 4, 4)),
        (nn.ConvTranspose1d(16, 32, 9, stride=2), (2, 16, 20)),
        (nn.ConvTranspose2d(32, 16, 3, groups=2, output_padding=1, stride=2), (2, 32, 6, 6)),
    ],
)
def test_single_layers(layer, shape):
    layer = copy.deepcopy(layer)
    kind, keys = type(layer), set(layer.state_dict()) - {"weight"}
    result = convert_(layer, "wsnet", ratio=4)
    assert isinstance(layer, kind)
    assert isinstance(layer, SummaryLayer)
    assert set(layer.state_dict()) == keys | {"summary"}
    assert compressed_layers(layer) == {"": layer}
    assert [r.name for r in result.rows] == ["", "(rest)"]
    assert layer(torch.randn(shape)).isfinite().all()


@pytest.mark.parametrize("preset", PRESETS_WITH_WEIGHT)
def test_a_fresh_summary_has_the_scale_of_the_weight(preset):
    model = nn.Conv2d(32, 64, 3)
    nn.init.normal_(model.weight, std=0.37)
    convert_(model, preset, ratio=4)
    assert model.summary.std().item() == pytest.approx(0.37, rel=0.1)
    assert model.weight.std().item() == pytest.approx(0.37, rel=0.15)


@pytest.mark.parametrize("preset", PRESETS_WITH_WEIGHT)
def test_a_warm_start_lowers_the_error_and_reports_it(preset):
    model = Net()
    dense = {name: model.get_submodule(name).weight.detach().clone() for name in NAMES}
    cold, cold_result = convert(model, preset, ratio=4)
    warm, result = convert(model, preset, ratio=4, warm_start=True)
    for name in NAMES:
        error, cold_error = (distance(twin.get_submodule(name).weight, dense[name]) for twin in (warm, cold))
        assert error < 1 <= cold_error  # zeros would have an error of 1
        assert row(cold_result, name).fit_error is None
        if preset not in ("dfsnet", "nes"):  # soft until hardened
            assert row(result, name).fit_error == pytest.approx(error, abs=1e-4)
    harden_(warm)
    for name in NAMES:
        error = distance(warm.get_submodule(name).weight, dense[name])
        assert row(result, name).fit_error == pytest.approx(error, abs=1e-4)
        assert row(report(warm), name).fit_error == row(result, name).fit_error


@pytest.mark.parametrize("preset", ["kmeans", "dfsnet", "autosample"])  # those that can place their windows freely
def test_at_a_ratio_near_one_a_warm_start_is_close_to_the_model(preset):
    """Filters that repeat one another, as trained ones do: three copies of each, with a little noise."""
    model = nn.Sequential(nn.Conv2d(8, 48, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48 * 16, 30)).eval()
    with torch.no_grad():
        for layer in (model[0], model[3]):
            base = layer.weight[: len(layer.weight) // 3]
            layer.weight.copy_(base.repeat(3, *[1] * (base.dim() - 1)) + 1e-3 * torch.randn_like(layer.weight))
    x = torch.randn(20, 8, 6, 6)
    expected = model(x)
    learned = {"options": {"afford": 10}} if preset == "autosample" else {}
    twin, result = convert(model, preset, ratio=1.1, share="even", warm_start=True, **learned)
    assert len(result.converted) == 2
    assert max(r.fit_error for r in result.converted) < 0.1
    assert distance(harden_(twin)(x), expected) < 0.1


def test_frozen_layers_stay_frozen():
    model = Net()
    model.block.requires_grad_(False)
    for preset in ("autosample", "nes", "wsnet"):
        twin, _ = convert(model, preset, ratio=4)
        learned = {name for name, p in twin.named_parameters() if p.requires_grad}
        assert not any(name.startswith("block") for name in learned)
        assert "stem.summary" in learned
        twin(image()).sum().backward()
        assert all(p.grad is None for p in twin.block.parameters())


def test_an_evaluated_model_stays_in_evaluation():
    model = Net().eval()
    convert_(model, "nes", ratio=4)
    assert not any(module.training for module in model.modules())
    routing = model.stem.offsets.routing.clone()
    x = image()
    assert torch.equal(model(x), model(x))
    assert torch.equal(model.stem.offsets.routing, routing)


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "dense"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_nothing_changes_its_dtype(preset, dtype):
    model = Net().to(dtype)
    convert_(model, preset, ratio=4, signs="random", warm_start=True)
    for layer in compressed_layers(model).values():
        assert {layer.summary.dtype, layer.bias.dtype, layer.weight.dtype} == {dtype}
    out = model(image(dtype))
    assert out.dtype == dtype
    assert out.isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "dense"])
def test_nothing_leaves_its_device(preset):
    model = Net().cuda()
    convert_(model, preset, ratio=4, signs="random", columns="shuffle", warm_start=True)
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"cuda"}
    assert model(image().cuda()).isfinite().all()


class UNet(nn.Module):
    """Down and up again, with a skip; transposed convolutions on the way up."""

    def __init__(self):
        super().__init__()
        self.down, self.inner = nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1), nn.Conv2d(32, 8, 3, padding=1)

    def forward(self, x):
        y = torch.relu(self.inner(torch.relu(self.down(x))))
        return self.out(torch.cat([x, torch.relu(self.up(y))], 1))


@pytest.mark.parametrize("preset", ["autosample", "wsnet", "kmeans"])
def test_a_u_net_is_converted_as_a_whole(preset):
    model, x = UNet(), torch.randn(2, 16, 8, 8)
    names = {"down", "inner", "up", "out"}
    weights = {name: model.get_submodule(name).weight.detach().clone() for name in names}
    result = convert_(model, preset, ratio=4, warm_start=True)
    assert set(compressed_layers(model)) == names
    assert all(row(result, name).fit_error < 1 for name in names)
    assert model.up.weight.shape == weights["up"].shape == (32, 16, 4, 4)
    model(x).square().mean().backward()
    assert all(layer.summary.grad.any() for layer in compressed_layers(model).values())
    harden_(model)
    y = model.eval()(x)
    for layer in list(compressed_layers(model).values()):
        layer.to_dense_()
    assert not compressed_layers(model)
    torch.testing.assert_close(model(x), y)


def trained_net():
    """A net whose batch norm has seen data, as in any trained one."""
    model = nn.Sequential(nn.Conv2d(8, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 3))
    model(torch.randn(4, 8, 9, 9))
    return model


def test_trained_weights_are_not_dropped_without_a_word():
    with pytest.warns(UserWarning, match="the model was trained, and the weights of its converted layers are dropped"):
        convert_(trained_net(), "random", ratio=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert_(trained_net().apply(lambda m: getattr(m, "reset_running_stats", lambda: None)()), "random", ratio=4)


def test_a_warm_start_tells_how_well_the_weights_are_fitted():
    model = trained_net()
    dense = [model[0].weight.detach().double(), model[3].weight.detach().double()]
    with pytest.warns(UserWarning, match="fit the weights with a relative error of .*: train the model") as seen:
        convert_(model, "random", ratio=4, warm_start=True)
    errors = [(w - model[i].weight.double()).norm() / w.norm() for w, i in zip(dense, (0, 3), strict=True)]
    mean = sum(e * w.numel() for e, w in zip(errors, dense, strict=True)) / sum(w.numel() for w in dense)
    told = [str(warning.message) for warning in seen if "relative error" in str(warning.message)]
    assert f"relative error of {mean:.2f}" in told[0]
    assert len(seen) == 1  # nothing is dropped


def test_a_spec_is_derived_and_checked_once_for_each_layer(monkeypatch):
    """Counted, as times depend on the machine: the specs made for a layer, its sharing and its affordable rule."""
    made, check = [], Spec.__post_init__
    monkeypatch.setattr(Spec, "__post_init__", lambda self: (made.append(self), check(self))[1])
    depths = {}
    for depth in (4, 12):
        made.clear()
        layers = [layer for _ in range(depth) for layer in (nn.Conv1d(32, 32, 9), nn.Conv2d(32, 32, 3))]
        convert_(nn.Sequential(*layers, nn.Linear(64, 256)), "autosample", ratio=8)
        depths[depth] = len(made)
    assert (depths[12] - depths[4]) / (2 * (12 - 4)) <= 2  # layers, of two kinds
