"""Chains of timm's nets as known from their code, and folded nets against the originals."""

import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

import autosample.models  # noqa: F401, soundnet8
from autosample import AutosampleError
from autosample.deployment.chains import Chain, find_chains, norm_affine


def net(name):
    small = {"mlp_ratio": 0.05} if name == "vgg11_bn" else {}
    return timm.create_model(name, pretrained=False, num_classes=5, **small).eval()


def example(name):
    native = {"soundnet8": (1, 44100), "vit_tiny_patch16_224": (3, 224, 224), "levit_128s": (3, 224, 224)}
    return torch.randn(2, *native.get(name, (3, 64, 64)))


def test_resnet18():
    found = find_chains(net("resnet18"), example("resnet18"))
    assert found.pop("fc") == Chain("fc")
    assert found["conv1"] == Chain("conv1", "bn1", "act1", "maxpool")
    assert found["layer1.0.conv1"] == Chain("layer1.0.conv1", "layer1.0.bn1", "layer1.0.act1")
    assert found["layer2.0.downsample.0"] == Chain("layer2.0.downsample.0", "layer2.0.downsample.1")
    for name, chain in found.items():  # the residual comes before the second activation
        assert chain.norm is not None
        assert (chain.activation is None) == (name.endswith("conv2") or "downsample" in name)


# numbers of norms, activations and pools
NETS = {
    "mobilenetv2_100": (52, 0, 0), "efficientnet_lite0": (49, 0, 0),  # ReLU6
    "regnetx_002": (44, 27, 0),
    "densenet121": (59, 59, 1),  # the second convolution of a layer is followed by a concatenation
    "vgg11_bn": (8, 10, 5), "soundnet8": (8, 8, 3), "convnext_atto": (0, 0, 0), "vit_tiny_patch16_224": (0, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_nets_of_timm(name):
    found = find_chains(net(name), example(name)).values()
    steps = ("norm", "activation", "pool")
    assert tuple(sum(getattr(c, step) is not None for c in found) for step in steps) == NETS[name]


@torch.no_grad()
def scramble(model):
    """Random statistics and factors, as after some training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)


@torch.no_grad()
def fold(model, chains):
    """Norms into weights, the other steps to where the layer is; what is left of the steps hands on its input."""
    for chain in chains.values():
        layer, later = model.get_submodule(chain.layer), []
        for name in filter(None, (chain.activation, chain.pool)):
            later.append(model.get_submodule(name))
            model.set_submodule(name, nn.Identity())
        if chain.norm is not None:
            norm = model.get_submodule(chain.norm)
            scale, shift = norm_affine(norm)
            bias = 0 if layer.bias is None else layer.bias * scale
            layer.weight = nn.Parameter((layer.weight * scale.view(-1, *[1] * (layer.weight.dim() - 1))).float())
            layer.bias = nn.Parameter((bias + shift).float())
            model.set_submodule(chain.norm, getattr(norm, "act", nn.Identity()))
        layer.register_forward_hook(lambda module, args, out, later=later: nn.Sequential(*later)(out))
    return model


FOLDED = (
    "resnet18", "mobilenetv3_small_050", "regnetx_002", "densenet121", "vgg11_bn", "soundnet8", "ghostnet_050",
    "repvgg_a0", "ese_vovnet19b_slim_dw", "levit_128s",
)  # fmt: skip


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.every(3)
def test_folded_nets_compute_the_same(name):
    model, x = net(name), example(name)
    scramble(model)
    chains = find_chains(model, x)
    assert any(chain.norm is not None for chain in chains.values())
    with torch.no_grad():
        expected, out = model(x), fold(model, chains)(x)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"eps": 0.3}, {"momentum": None}])
def test_norm_affine(options):
    norm = nn.BatchNorm1d(6, **options).eval()
    scramble(norm)
    scale, shift = norm_affine(norm)
    x = torch.randn(5, 6, 7, dtype=torch.float64)
    assert scale.dtype == shift.dtype == torch.float64
    assert not scale.requires_grad
    torch.testing.assert_close(x * scale[:, None] + shift[:, None], norm.double()(x))
    norm.register_parameter("bias", None)
    torch.testing.assert_close(norm_affine(norm)[1], -norm.running_mean * scale)


@pytest.mark.parametrize("norm", [nn.LayerNorm(4), nn.BatchNorm2d(4, track_running_stats=False)])
def test_norm_affine_of_what_is_none(norm):
    with pytest.raises(AutosampleError, match=type(norm).__name__):
        norm_affine(norm)


@pytest.mark.slow
def test_timm_is_not_imported():
    code = "import sys, autosample.deployment.chains; print('timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
