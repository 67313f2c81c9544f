"""What torch's own tools give with a converted model equals what they give with its dense twin, for every spec."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from every_spec import SPECS, WITH_WEIGHT
from torch import nn
from torch.nn.utils import clip_grad_norm_, parametrizations
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.checkpoint import checkpoint

import autosample
import autosample.models
from autosample.nn import compressed_layers

X, Y = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 10
every_spec = pytest.mark.parametrize("name", SPECS)
every_weight = pytest.mark.parametrize("name", WITH_WEIGHT)


def net(name, seed=0):
    torch.manual_seed(seed)
    model = timm.create_model("digitnet", num_classes=10)
    autosample.convert_(model, {**SPECS[name], "ratio": 4})
    return model


def gradients(model, call=None) -> list[torch.Tensor]:
    model.zero_grad()
    F.cross_entropy((call or model)(X), Y).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@every_spec
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.every(3)
def test_checkpointing(name, reentrant):
    model = net(name).train()
    plain = gradients(copy.deepcopy(model))
    x = X.clone().requires_grad_()  # the old way needs an input with a gradient
    again = gradients(model, lambda _: checkpoint(model, x, use_reentrant=reentrant))
    assert len(plain) == len(list(model.parameters()))
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b)


@every_spec
def test_clipped_gradients(name):
    model = net(name).train()
    before = gradients(model)
    norm = torch.cat([g.double().flatten() for g in before]).norm()
    found = clip_grad_norm_(model.parameters(), max_norm=float(norm) / 2)
    torch.testing.assert_close(found.double(), norm, rtol=1e-5, atol=1e-7)
    for p, g in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.grad, g / 2, rtol=1e-4, atol=1e-7)


@every_weight
def test_channels_last(name):
    model = net(name).eval()
    expected = autosample.densify(model)(X)
    model = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(X.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5)


@every_weight
def test_functional_call(name):
    """A state that is passed in counts, and not the model's own."""
    model, other = net(name).eval(), net(name, seed=1).eval()
    state = {key: tensor.clone() for key, tensor in other.state_dict().items()}
    got = torch.func.functional_call(model, state, (X,))
    torch.testing.assert_close(got, autosample.densify(other)(X), rtol=1e-4, atol=1e-5)


@every_weight
@pytest.mark.every(3, 1)
def test_an_ensemble_in_one_call(name):
    models = [net(name, seed).eval() for seed in range(2)]
    parameters, buffers = torch.func.stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")
    got = torch.vmap(lambda p, b: torch.func.functional_call(base, (p, b), (X,)))(parameters, buffers)
    for model, out in zip(models, got, strict=True):
        torch.testing.assert_close(out, autosample.densify(model)(X), rtol=1e-4, atol=1e-5)


@every_weight
@pytest.mark.every(3, 1)
def test_stochastic_weight_averaging(name):
    """Parameters are averaged, and statistics of batch norm are measured again for the averaged weights."""
    model = net(name)
    average = AveragedModel(model)
    states = []
    for step in range(3):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.01 * (step + 1) * torch.randn_like(p))
        states.append({key: p.detach().double() for key, p in model.named_parameters()})
        average.update_parameters(model)
    update_bn([(X,)], average)
    expected = copy.deepcopy(model)
    with torch.no_grad():
        for key, p in expected.named_parameters():
            p.copy_(sum(state[key] for state in states) / 3)
    for module in expected.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    expected.train()(X)  # for the index learner of nes too, which keeps what it has read
    dense = autosample.densify(expected)
    # the learner of nes multiplies what rounding leaves by hundreds of rows
    torch.testing.assert_close(average.eval()(X), dense.eval()(X), rtol=1e-3, atol=2e-3 if name == "nes" else 1e-4)


@every_weight
@pytest.mark.every(3, 1)
def test_weight_norm_of_what_is_stored(name):
    """The stored numbers can be written as length and direction, as any parameter of torch."""
    model = net(name).eval()
    before = model(X)
    layer = next(iter(compressed_layers(model).values()))
    parametrizations.weight_norm(layer, layer.coded[0])
    torch.testing.assert_close(model(X), before, rtol=1e-4, atol=1e-5)
    lengths = layer.parametrizations[layer.coded[0]].original0
    gradients(model)
    assert lengths.grad.abs().sum() > 0
    with torch.no_grad():
        lengths.mul_(2)
    own = F.conv2d if layer.weight.dim() == 4 else F.linear
    x = torch.randn(2, *layer.weight.shape[1:2], *([9] * (layer.weight.dim() - 2)))
    stride = {"stride": layer.stride, "padding": layer.padding} if own is F.conv2d else {}
    torch.testing.assert_close(layer(x), own(x, layer.weight, layer.bias, **stride), rtol=1e-4, atol=1e-5)


@every_weight
@pytest.mark.every(3)
def test_precisions_of_a_whole_model(name):
    model = net(name).eval()
    dense = autosample.densify(model).double()(X.double())
    torch.testing.assert_close(copy.deepcopy(model).double()(X.double()), dense, rtol=1e-3, atol=1e-3)
    for dtype, tolerance in ((torch.bfloat16, 0.1), (torch.float16, 0.02)):
        got = copy.deepcopy(model).to(dtype)(X.to(dtype)).double()
        assert (got - dense).norm() < tolerance * dense.norm()
