"""Architectures of timm, converted as they are: forward, backward, hardening, and a reason for whatever stays dense.

The fast tests take a dozen small models; the slow ones take the smallest model of every family that timm has.
"""

import gc
import signal
from collections import defaultdict
from contextlib import contextmanager

import pytest
import timm
import torch
from timm.models import model_entrypoint
from torch import nn
from torch.utils._pytree import tree_leaves

from autosample import convert_, harden_, report
from autosample.nn import compressed_layers

# what names of small models look like, smallest first
_SMALL = (
    "test_", "xxxs", "xxtiny", "atto", "femto", "pico", "nano", "xx_small", "xxs", "_ti", "_xs", "050", "002", "_m0",
    "_t0", "_t1", "_t8", "_s0", "_b0", "tiny", "_h1", "small", "_s1", "_m1", "_l1", "_s12", "46_c", "slim", "14d",
    "_18", "18", "_s", "_t", "048", "48b", "26", "12",
)  # fmt: skip
# families whose smallest model is large are built narrower and shallower
_THIN = {"embed_dim": 96, "depth": 2, "num_heads": 3}
_ARGUMENTS = {
    "beit": _THIN,
    "naflexvit": _THIN,
    "deepseek_vit": _THIN,
    "gemma4_vit": _THIN,
    "qwen3_vit": _THIN,
    "vision_transformer_sam": _THIN | {"global_attn_indexes": (1,)},
}
# where the name says nothing
_SMALLEST = {
    "densenet": "densenet121",
    "levit": "levit_128",
    "metaformer": "poolformer_s12",
    "mobilenetv5": "mobilenetv5_base",
    "tresnet": "tresnet_m",
    "volo": "volo_d1_224",
}
_MOST_PARAMETERS = 140_000_000
_MOST_SECONDS = 120
FAST = [
    *((name, "autosample") for name in (
        "test_resnet", "test_efficientnet", "test_convnext", "test_nfnet", "test_byobnet", "test_vit", "test_mambaout",
        "test_maxvit", "test_vit_relpos", "mobilenetv3_small_050", "regnetx_002", "ghostnet_050", "starnet_s050",
        "ese_vovnet19b_slim_dw", "densenet121", "edgenext_xx_small",
    )),
    ("test_resnet", "wsnet"), ("test_efficientnet_evos", "wsnet"), ("test_vit2", "wsnet"), ("regnety_002", "wsnet"),
    ("test_resnet", "nes"), ("test_convnext2", "fsnet"), ("test_nfnet", "kmeans"), ("test_byobnet", "hashednet"),
    ("test_vit3", "dfsnet"), ("test_efficientnet_gn", "random"),
]  # fmt: skip
# cheaper than the native input, for models that take any
_SIZES = (64, 96, 128)


def families() -> dict[str, str]:
    """The smallest model of each of timm's model files, going by the names."""
    names = defaultdict(list)
    for name in timm.list_models():
        names[model_entrypoint(name).__module__.rpartition(".")[2]].append(name)
    return {family: _SMALLEST.get(family) or min(found, key=_rank) for family, found in sorted(names.items())}


def _rank(name: str) -> tuple:
    return min((i for i, part in enumerate(_SMALL) if part in name), default=len(_SMALL)), len(name), name


def build(name, **arguments) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=10, **arguments)


def parameters_of(name, arguments) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build(name, **arguments).parameters())


def step(model, x) -> list[torch.Tensor]:
    """One forward and backward pass in training mode; the outputs."""
    torch.manual_seed(1)
    model.zero_grad()
    outputs = [t for t in tree_leaves(model.train()(x)) if isinstance(t, torch.Tensor) and t.is_floating_point()]
    sum((t.float() - 1).square().mean() for t in outputs).backward()
    return outputs


def smallest_step(model) -> torch.Tensor | str:
    """An input with which the dense model trains, or why there is none."""
    channels, *native = model.pretrained_cfg["input_size"]
    fixed = model.pretrained_cfg.get("fixed_input_size", False)
    sizes = [native] if fixed else [*([s, s] for s in _SIZES if s < native[0]), native]
    failure: Exception | None = None
    for size in sizes:
        x = torch.randn(2, channels, *size)
        try:
            step(model, x)
        except (RuntimeError, AssertionError, ValueError, IndexError, TypeError) as error:
            failure = error
        else:
            return x
    return f"the dense model fails as well: {type(failure).__name__}: {failure}"


def check(name, preset="autosample", arguments=None, ratio=8):
    """The claims, for one model."""
    model = build(name, **(arguments or {}))
    x = smallest_step(model)
    if isinstance(x, str):
        pytest.skip(x)
    reached = {n: bool(p.grad.any()) for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    dense_bytes = sum(t.nbytes for t in _distinct(model))
    result = convert_(model, preset, ratio=ratio)
    layers = compressed_layers(model)
    assert layers
    assert result.dense_bytes == dense_bytes
    assert result.stored_bytes < dense_bytes
    assert all(row.note for row in result.rows if row.method == "dense")
    outputs = step(model, x)
    assert all(torch.isfinite(t).all() for t in outputs)
    gradients = {where: layers[where].summary.grad for where in layers if f"{where}.weight" in reached}
    assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())
    # all that the dense model's gradient reaches, but for the odd bottleneck whose few ReLUs are dead
    silent = [where for where, g in gradients.items() if reached[f"{where}.weight"] and not g.any()]
    assert len(silent) <= 0.1 * len(layers), silent
    harden_(model)
    assert not any(layer.offsets.learned for layer in layers.values())
    with torch.no_grad():
        assert all(torch.isfinite(t).all() for t in tree_leaves(model.eval()(x)) if isinstance(t, torch.Tensor))
    assert report(model).stored_bytes <= result.stored_bytes
    return result


def _distinct(model) -> list[torch.Tensor]:
    """All that a file of the dense model holds, tensors with several names once."""
    return list({id(t): t for t in model.state_dict(keep_vars=True).values()}.values())


@contextmanager
def time_limit(seconds):
    def stop(number, frame):
        pytest.skip(f"takes longer than {seconds} s here")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_families_are_found():
    found = families()
    assert len(found) > 80
    assert set(found.values()) <= set(timm.list_models())
    assert found["resnet"] == "test_resnet"


@pytest.mark.filterwarnings("ignore")  # timm's own
@pytest.mark.parametrize(("name", "preset"), FAST)
@pytest.mark.every(3)
def test_small_models(name, preset):
    check(name, preset)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # timm's own
@pytest.mark.parametrize("family", list(families()))
def test_every_family(family):
    _check_family(family, "autosample")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", list(families())[::4])
def test_a_quarter_of_the_families_as_wsnet(family):
    _check_family(family, "wsnet")


def _check_family(family, preset):
    name, arguments = families()[family], _ARGUMENTS.get(family, {})
    with time_limit(_MOST_SECONDS):
        if (size := parameters_of(name, arguments)) > _MOST_PARAMETERS:
            pytest.skip(f"{name} has {size / 1e6:.0f} M parameters")
        check(name, preset, arguments)
    gc.collect()  # of large models
