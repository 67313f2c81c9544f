"""Every method with every coding, in layers of every kind: training at levels, hardening, compiling."""

import copy

import pytest
import torch
from every_kind import CODINGS, EVERY, X, every_kind
from torch import nn

import autosample
from autosample.model.quantize import attach_quantizers, fix_quantizers_
from autosample.nn import compressed_layers


def learning(method: str, coding: str) -> nn.Module:
    """A net in training that computes with the levels that it will store."""
    net = every_kind(method).train()
    if (options := CODINGS[coding]) is not None:
        rest = {name: value for name, value in options.items() if name not in ("bits", "method")}
        attach_quantizers(net, options["bits"], options.get("method", "linear"), **rest)
        for layer in compressed_layers(net).values():
            for name in layer.quantizers:
                layer.start_levels(name)
    return net


@pytest.mark.parametrize(("method", "coding"), EVERY)
@pytest.mark.every(4, 2)
def test_training_reaches_every_parameter_and_what_is_shown_is_stored(method, coding):
    net, x = learning(method, coding), torch.randn(X)
    target, losses = torch.randn(3, 24), []
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(6):
        optimizer.zero_grad()
        loss = (net(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert [name for name, p in net.named_parameters() if p.grad is None] == []
    for layer in compressed_layers(net).values():
        layer.freeze_()
    net.eval()
    shown = net(x)
    fix_quantizers_(net)
    assert torch.equal(net(x), shown)
    autosample.harden_(net)
    torch.testing.assert_close(net(x), shown, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "coding"), EVERY)
def test_compiled_nets_compute_the_same(method, coding):
    torch._dynamo.reset()
    net, x = learning(method, coding), torch.randn(X)
    twin = copy.deepcopy(net)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    out, expected = compiled(x), twin(x)
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-4)
    out.square().mean().backward()
    expected.square().mean().backward()
    for (name, mine), theirs in zip(net.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-2, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
