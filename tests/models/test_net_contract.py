"""What every net of `autosample.models` must do, run for each of them."""

import copy
import functools

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

import autosample.models  # noqa: F401  registers the nets

# name: input that is small but long enough, per sample and without channels
NETS = {
    "soundnet8": (5000,),
    "musicdet": (17000,),
    "m3": (1500,),
    "m5": (1200,),
    "m11": (1200,),
    "m18": (1200,),
    "wave4": (1000,),
    "mlp784": (28, 28),
    "mlp784_5": (28, 28),
    "freshnet": (32, 32),
    "digitnet": (8, 8),
}
every_net = pytest.mark.parametrize("name", NETS)


@functools.cache
def built(name: str) -> nn.Module:
    return timm.create_model(name, num_classes=3, in_chans=1)


def net_and_input(name: str, in_chans: int = 1, **kwargs):
    """A net of one's own and noise that fits; copies are much cheaper than initialising 14 M weights."""
    if in_chans == 1 and not kwargs:
        net = copy.deepcopy(built(name))
    else:
        net = timm.create_model(name, num_classes=3, in_chans=in_chans, **kwargs)
    return net, torch.randn(2, in_chans, *NETS[name])


def gradients(net: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    net.zero_grad(set_to_none=True)
    loss = nn.functional.cross_entropy(net(x), torch.tensor([0, 2]))
    loss.backward()
    return loss.detach(), {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}


@every_net
@pytest.mark.every(3)
def test_forward_and_backward_reach_all_parameters(name):
    net, x = net_and_input(name)
    assert net(x).shape == (2, 3)
    loss, grads = gradients(net, x)
    assert loss.isfinite()
    assert grads.keys() == dict(net.named_parameters()).keys()
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in grads.values())


@every_net
def test_parts_compose_and_eval_is_deterministic(name):
    net, x = net_and_input(name, drop_rate=0.5)
    net.eval()
    with torch.no_grad():
        features = net.forward_features(x)
        assert features.shape[:2] == (2, net.num_features)
        pre_logits = net.forward_head(features, pre_logits=True)
        assert pre_logits.shape == (2, net.head_hidden_size)
        logits = net(x)
        torch.testing.assert_close(net.get_classifier()(pre_logits), logits, rtol=0, atol=0)
        torch.testing.assert_close(net(x), logits, rtol=0, atol=0)
    net.train()
    assert not torch.equal(net(x), net(x))  # the dropout is there


@every_net
def test_deepcopy_and_strict_reload(name):
    net, x = net_and_input(name)
    net.eval()
    twin, _ = net_and_input(name)
    twin.reset_classifier(3)
    twin.load_state_dict(net.state_dict(), strict=True)
    with torch.no_grad():
        for other in (twin.eval(), copy.deepcopy(net)):
            torch.testing.assert_close(other(x), net(x), rtol=0, atol=0)


@every_net
def test_names_for_converters_are_right(name):
    net, _ = net_and_input(name)
    first, classifier = net.pretrained_cfg["first_conv"], net.pretrained_cfg["classifier"]
    layers = [(k, m) for k, m in net.named_modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Linear)]
    assert net.get_submodule(classifier) is net.get_classifier() is layers[-1][1]
    if name.startswith("mlp"):
        assert first is None
    else:
        assert first == layers[0][0]
    assert net.default_cfg["num_classes"] > 0


@every_net
def test_grad_checkpointing_changes_nothing(name):
    net, x = net_and_input(name)
    twin = copy.deepcopy(net)
    twin.set_grad_checkpointing(True)
    assert twin.grad_checkpointing
    loss, grads = gradients(net, x)
    loss_twin, grads_twin = gradients(twin, x)
    torch.testing.assert_close(loss_twin, loss)
    torch.testing.assert_close(grads_twin, grads)


@every_net
def test_reset_classifier_and_no_classes(name):
    net, x = net_and_input(name)
    net.reset_classifier(7)
    assert net(x).shape == (2, 7)
    assert net.num_classes == 7
    net.reset_classifier(0)
    assert isinstance(net.get_classifier(), nn.Identity)
    assert net(x).shape == (2, net.head_hidden_size)
    bare = timm.create_model(name, num_classes=0, in_chans=1)
    assert bare(x).shape == (2, net.head_hidden_size)
    assert bare.num_classes == 0


@every_net
def test_two_channels(name):
    net, x = net_and_input(name, in_chans=2)
    assert net.in_chans == 2
    assert net(x).shape == (2, 3)


@every_net
def test_features_only_agrees_with_feature_info(name):
    x = torch.randn(2, 1, *NETS[name])
    net = timm.create_model(name, in_chans=1, features_only=True)
    maps = net(x)
    assert [m.shape[1] for m in maps] == net.feature_info.channels()
    assert net.feature_info.reduction() == sorted(net.feature_info.reduction())
    for m, reduction in zip(maps, net.feature_info.reduction(), strict=True):
        if m.ndim > 2:  # paddings make the lengths differ from n / reduction by a few
            assert all(abs(n - full / reduction) < 3 for n, full in zip(m.shape[2:], NETS[name], strict=True))


@every_net
def test_out_indices_and_forward_intermediates(name):
    net, x = net_and_input(name)
    net.eval()
    extractor = timm.create_model(name, num_classes=3, in_chans=1, features_only=True, out_indices=(0, -1)).eval()
    with torch.no_grad():
        final, maps = net.forward_intermediates(x)
        torch.testing.assert_close(final, net.forward_features(x))
        torch.testing.assert_close(maps[-1], final)
        assert [m.shape for m in extractor(x)][-1] == final.shape
        picked = net.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)
        assert len(picked) == 1
        torch.testing.assert_close(picked[0], maps[0])
        torch.testing.assert_close(net.forward_intermediates(x, indices=1)[1][0], final)


@every_net
def test_layer_decay_groups_cover_all_parameters(name):
    net, _ = net_and_input(name)
    assert net.no_weight_decay() == set()
    groups = param_groups_layer_decay(net, layer_decay=0.5)
    assert sum(len(g["params"]) for g in groups) == len(list(net.parameters()))
    scale = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    scales = [scale[id(p)] for stage in net.stages for p in list(stage.parameters())[:1]]
    assert scales == sorted(set(scales))  # every stage deeper than the last
    assert scale[id(net.get_classifier().weight)] == 1


@every_net
def test_no_pretrained_weights(name):
    with pytest.raises(RuntimeError, match=f"No pretrained weights exist for {name}"):
        timm.create_model(name, pretrained=True)


@every_net
def test_registry_and_data_config(name):
    assert timm.is_model(name)
    assert name in timm.list_models(module=["waveform", "small"])
    net = timm.create_model(name)  # with its own in_chans
    config = timm.data.resolve_model_data_config(net)
    assert config["input_size"][0] == net.in_chans == len(config["mean"])


@pytest.mark.parametrize("name", ["wave4", "freshnet", "mlp784"])
def test_dtype_reaches_every_layer(name):
    net, x = net_and_input(name, dtype=torch.float64)
    net.reset_classifier(4)
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert net(x.double()).shape == (2, 4)
