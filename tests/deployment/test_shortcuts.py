"""Residual blocks whose last layer adds the shortcut, against the hardened model in float64."""

import copy
import io

import pytest
import timm
import torch
from deploying import check, error, expected, scramble
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from autosample import convert_, deploy
from autosample.deployment import whole
from autosample.deployment.shortcuts import Residual, with_shortcuts
from autosample.nn import SummaryConv2d
from autosample.nn.folding import _modules, layer_folds
from autosample.nn.planning import layer_frame
from autosample.reuse import fused, planner
from autosample.reuse.after import After
from autosample.system.timing import Timing


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSAMPLE_CACHE", str(tmp_path))


def net(block=BasicBlock, **options) -> nn.Module:
    torch.manual_seed(0)
    model = timm.models.ResNet(block, (1, 1, 2, 1), in_chans=3, num_classes=5, channels=(32, 64, 64, 96), **options)
    convert_(model, "folded", ratio=4)
    return scramble(model).eval()


def image() -> Tensor:
    return torch.randn(2, 3, 70, 65)


def residuals(model: nn.Module) -> list[str]:
    return [name for name, m in model.named_modules() if isinstance(m, Residual)]


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_nets_compute_the_same(block, fuse):
    model, x = net(block), image()
    fast = check(model, x, tolerance=1e-5, fuse=fuse)
    assert len(residuals(fast)) >= 2
    last = "conv2" if block is BasicBlock else "conv3"
    rows = {row.name: row for row in fast.deployment.rows}
    for name in residuals(fast):
        assert rows[f"{name}.{last}"].folded == ("norm", "shortcut", "relu")
        assert rows[f"{name}.{last}"].plan.kind.startswith("folded")
    assert set(fast.state_dict()) >= {f"{name}.{last}.matrix" for name in residuals(fast)}  # names stay
    other = torch.randn(1, 3, 40, 52)
    with torch.no_grad():
        assert error(fast(other), expected(model, other)) < 1e-5


def test_filters_that_are_sorted_by_block_stay_apart():
    torch.manual_seed(0)
    model = timm.models.ResNet(BasicBlock, (1, 1, 1, 1), num_classes=5, channels=(32, 64, 64, 96))
    options = {"assignment": "energy", "permutation": "energy"}
    convert_(model, "folded", ratio=4, warm_start=True, options=options)
    fast = check(scramble(model).eval(), image(), tolerance=1e-5)
    assert "folded" in {row.plan.kind.split()[0] for row in fast.deployment.rows}
    assert residuals(fast) == []


def test_downsampling_by_pools_and_other_strides():
    model = net(Bottleneck, avg_down=True, output_stride=16)
    assert len(residuals(check(model, image(), tolerance=1e-5))) >= 2


def test_graphs_copies_and_files_compute_the_same():
    model, x = net(), image()
    fast = check(model, x, tolerance=1e-5)
    assert residuals(fast)
    with torch.no_grad():
        right = fast(x)
        assert torch.equal(copy.deepcopy(fast)(x), right)
        file = io.BytesIO()
        torch.save(fast, file)
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=False)(x), right)
        assert error(torch.export.export(fast, (x,)).module()(x), right) < 1e-5
        torch._dynamo.reset()
        assert error(torch.compile(fast, fullgraph=True, backend="eager")(x), right) < 1e-5
        with torch.autocast("cpu", torch.bfloat16):
            assert error(fast(x).float(), right) < 0.1


def test_gradients_of_the_input():
    model, x = net(), image()
    fast = check(model, x, tolerance=1e-5)
    (got,) = torch.autograd.grad(fast(x.requires_grad_()).square().sum(), x)
    (right,) = torch.autograd.grad(model(x).square().sum(), x)
    assert error(got, right) < 1e-4


class Doubled(BasicBlock):
    """Not the block that is known: a subclass may add anything else."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def hooked(model: nn.Module) -> nn.Module:
    model.layer1[0].register_forward_hook(lambda module, args, out: out + 1)
    return model


def other_act(model: nn.Module) -> nn.Module:
    model.layer1[0].act2 = nn.SiLU()
    return model


@pytest.mark.parametrize("change", [hooked, other_act])
def test_changed_blocks_stay(change):
    fast = check(change(net()), image(), tolerance=1e-5)
    assert "layer1.0" not in residuals(fast)
    assert residuals(fast)


def test_patched_blocks_stay():
    plain = deploy(net(), image(), measure=False)
    apart = copy.deepcopy(plain)
    block = apart.layer1[0] = BasicBlock(32, 32)
    assert with_shortcuts(apart, []) == []  # nothing is left to change but this one, which is dense
    block.conv2, block.bn2 = copy.deepcopy(plain.layer1[0].conv2), nn.Identity()
    assert len(with_shortcuts(apart, [])) == 1
    block.forward = lambda x: x
    assert with_shortcuts(apart, []) == []


@pytest.mark.parametrize(
    ("block", "options"),
    [(Doubled, {}), (BasicBlock, {"act_layer": nn.SiLU}), (BasicBlock, {"block_args": {"attn_layer": "se"}})],
)
def test_other_blocks_stay(block, options):
    assert residuals(check(net(block, **options), image(), tolerance=1e-5)) == []


def test_dense_layers_stay():
    torch.manual_seed(0)
    model = scramble(timm.models.ResNet(BasicBlock, (1, 1, 1, 1), num_classes=5, channels=(8, 8, 8, 8)))
    assert residuals(check(model, image(), tolerance=1e-5)) == []


@pytest.mark.parametrize("fastest", [0, 1])
def test_the_whole_net_decides(fastest, monkeypatch):
    """The faster of both ways is taken, whichever it is."""
    seen = []

    def times(sides, **options):
        seen.append(len(sides))
        return [Timing(t, t, t, 9) for t in (1.0 if i == fastest else 2.0 for i in range(len(sides)))]

    monkeypatch.setattr(planner, "remembered", lambda key, kinds, _: {k: 2.0 if k == "dense" else 1.0 for k in kinds})
    monkeypatch.setattr(whole, "_channels_last", lambda *args: None)
    monkeypatch.setattr(whole, "time_in_turn", times)
    fast = deploy(net(), image())
    assert seen == [3]  # with shortcuts, without, and dense
    assert bool(residuals(fast)) == (fastest == 0)
    assert any("shortcut" in row.folded for row in fast.deployment.rows) == (fastest == 0)


SIZES = [(1, 5, 7), (3, 14, 14), (2, 1, 3), (5, 40, 33)]


@pytest.mark.parametrize(("batch", "height", "width"), SIZES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_plan_adds_before_the_relu(batch, height, width, stride, dtype):
    torch.manual_seed(0)
    layer = SummaryConv2d(12, 20, 3, stride, 1, spec="folded", ratio=4)
    frame, pad = layer_frame(layer)
    x = torch.randn(batch, 12, height, width)
    with torch.no_grad():
        right = nn.functional.conv2d(x.double(), layer.weight.double(), layer.bias.double(), stride, 1)
        shortcut = torch.randn_like(right).to(dtype)
        right = (right + shortcut.double()).relu()
        modules = _modules(layer, layer_folds(layer), frame, pad, After(None, layer.bias.detach()), fuse=True)
        for kind, module in modules.items():
            for given in (shortcut, shortcut.to(memory_format=torch.channels_last)):
                before = given.clone()
                got = copy.deepcopy(module).to(dtype)(x.to(dtype), given)
                assert got.dtype == dtype, kind
                assert error(got, right) < (1e-6 if dtype == torch.float32 else 2e-2), kind
                assert torch.equal(given, before)


@pytest.mark.usefixtures("kernel")
def test_what_the_kernel_refuses_to_add():
    layer = SummaryConv2d(12, 20, 3, 1, 1, spec="folded", ratio=4)
    frame, pad = layer_frame(layer)
    module = _modules(layer, layer_folds(layer), frame, pad, After(), fuse=True)["folded fused"]
    x = torch.randn(2, 12, 6, 6)
    args = (x, module.bank, module.rows, None, None)
    for wrong in (torch.zeros(2, 20, 6, 5), torch.zeros(1, 20, 6, 6), torch.zeros(2, 20, 6, 6).bfloat16()):
        with pytest.raises(RuntimeError, match="shape and type of the output"):
            fused.window_conv(*args, module.program, wrong)
