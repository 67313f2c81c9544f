"""Whole nets, deployed: outputs of the hardened model, and `torch.export` and `torch.compile` take them."""

import gc
import importlib

import pytest
import timm
import torch
from deploying import check, error, expected, force, kinds, scramble
from torch.utils._pytree import tree_leaves

import autosample.models  # noqa: F401, soundnet8 and m5
from autosample import PRESETS, convert_, deploy

NETS = {"soundnet8": (2, 1, 22050), "m5": (2, 1, 8000), "resnet18": (2, 3, 64, 64), "mobilenetv2_100": (2, 3, 64, 64)}
CONVERTED = [preset for preset in PRESETS if preset != "dense"]
# Operators that select among so many words would take more memory than there is; a plan that nobody would choose.
# Layers with folds or products have plans of their own.
PLANNED = [(preset, plan) for preset in CONVERTED for plan in ("reuse", "fused")
           if (preset, plan) not in (("kmeans", "reuse"), ("hashednet", "reuse"))
           and preset not in ("folded", "conditioned", "strassen")]  # fmt: skip
# name: size of the images
FAMILIES = {
    "test_resnet": 64, "test_efficientnet": 64, "test_convnext": 64, "test_nfnet": 64, "test_byobnet": 64,
    "test_vit": 160, "test_mambaout": 64, "test_maxvit": 160, "mobilenetv3_small_050": 64, "regnetx_002": 64,
    "ghostnet_050": 64, "starnet_s050": 64, "ese_vovnet19b_slim_dw": 64, "densenet121": 64, "edgenext_xx_small": 64,
    "xcit_nano_12_p8_224": 64, "levit_128s": 224, "davit_tiny": 64, "repvgg_a0": 64, "tf_efficientnet_lite0": 64,
    "resnetv2_50": 64, "convnextv2_atto": 64, "fastvit_t8": 64, "rexnet_100": 64,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSAMPLE_CACHE", str(tmp_path))
    yield
    gc.collect()  # of large models


def build(name, shape, preset):
    torch.manual_seed(0)
    options = {"img_size": shape[-1]} if name.startswith("vit") else {}
    model = timm.create_model(name, num_classes=5, **options)
    convert_(model, preset, ratio=8)
    return scramble(model), torch.randn(shape)


def check_net(name, shape, preset, *, plan=None, graphs=True, backend="eager", **options):
    model, x = build(name, shape, preset)
    wanted = expected(model, x)
    # some nets enlarge roundings a thousandfold, their own in float32 too
    tolerance = max(1e-4, 5 * error(expected(model, x, dtype=None), wanted))
    fast = check(model, x, tolerance=tolerance, **options)
    assert all(row.plan.reason for row in fast.deployment.rows)
    assert not plan or plan in kinds(fast)
    if not graphs:
        return fast
    exported = torch.export.export(fast, (x,))
    names = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert ("autosample.window_conv.default" in names) == any(kind.endswith("fused") for kind in kinds(fast))
    assert error(exported.module()(x), wanted) < tolerance
    torch._dynamo.reset()
    with torch.no_grad():
        assert error(torch.compile(fast, fullgraph=True, backend=backend)(x), wanted) < tolerance
    return fast


def parts(fast) -> set[str]:
    return {type(m).__name__ for m in fast.modules()}


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("soundnet8", "wsnet"),
        ("soundnet8", "autosample"),
        pytest.param("resnet18", "wsnet", marks=pytest.mark.slow),
        ("resnet18", "autosample"),
    ],
)
@pytest.mark.every(3)
def test_two_nets(name, preset):
    fast = check_net(name, NETS[name], preset, graphs=preset == "wsnet")
    assert not parts(fast) & {"BatchNorm1d", "BatchNorm2d", "BatchNormAct2d"}


@pytest.mark.parametrize("plan", ["reuse", "fused"])
@pytest.mark.parametrize("name", ["m5", "resnet18"])
@pytest.mark.every(3)
def test_two_nets_with_a_plan(name, plan, monkeypatch):
    force(monkeypatch, plan)
    check_net(name, NETS[name], "wsnet", plan=plan, graphs=name == "m5")


@pytest.mark.slow
@pytest.mark.parametrize("preset", CONVERTED)
@pytest.mark.parametrize("name", NETS)
def test_every_preset(name, preset):
    fast = check_net(name, NETS[name], preset)
    assert not parts(fast) & {"BatchNorm1d", "BatchNorm2d", "BatchNormAct2d"} or name == "mobilenetv2_100"


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "plan"), PLANNED)
@pytest.mark.parametrize("name", NETS)
def test_every_preset_with_a_plan(name, preset, plan, monkeypatch):
    force(monkeypatch, plan)
    fast = check_net(name, NETS[name], preset, graphs=preset in ("wsnet", "random"))
    # most windows of these are too many for the kernel's memory, or share no input
    assert kinds(fast).count(plan) >= 3 or preset in ("hashednet", "kmeans")


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_measured(name, monkeypatch):
    model, x = build(name, NETS[name], "wsnet")
    fast = deploy(model, x)
    with torch.no_grad():
        assert error(fast(x), expected(model, x)) < 1e-4
    for row in fast.deployment.rows:
        assert row.plan.kind == "dense" or row.plan.seconds <= 0.95 * row.plan.dense_seconds
    # models as a whole are compared anew each time, layers are remembered
    monkeypatch.setattr(importlib.import_module("autosample.deployment.deploy"), "fastest", lambda ways, *_: ways[0])
    assert kinds(deploy(model, x)) == kinds(deploy(model, x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["m5", "resnet18"])
def test_inductor(name, monkeypatch):
    force(monkeypatch, "reuse" if name == "m5" else "fused")
    check_net(name, NETS[name], "wsnet", backend="inductor")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # timm's own
@pytest.mark.parametrize("preset", ["autosample", "wsnet", "kmeans"])
@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_timm(name, preset):
    shape = (2, 3, FAMILIES[name], FAMILIES[name])
    fast = check_net(name, shape, preset, graphs=preset == "wsnet")
    assert all(isinstance(t, torch.Tensor) for t in tree_leaves(fast(torch.randn(1, *shape[1:]))))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("plan", ["reuse", "fused"])
@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_timm_with_a_plan(name, plan, monkeypatch):
    force(monkeypatch, plan)
    check_net(name, (2, 3, FAMILIES[name], FAMILIES[name]), "wsnet", graphs=plan == "fused")
