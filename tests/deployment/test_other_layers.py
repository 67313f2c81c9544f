"""Layers that reuse nothing become dense, whatever method and kind they are of."""

import pytest
import torch
from deploying import check, kinds
from other_layers import images, register_products, volumes
from torch import nn


@pytest.mark.parametrize("spec", ["wsnet", "random", "products"])
def test_kinds_of_layers_that_nothing_is_folded_into(spec, monkeypatch):
    register_products(monkeypatch)
    model, x = volumes(spec)
    fast = check(model, x)
    assert [type(m) for m in (fast.volume, fast.image, fast.signal)] == [
        nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose1d
    ]  # fmt: skip
    rows = {row.name: row for row in fast.deployment.rows}
    assert {name: row.plan.kind for name, row in rows.items()} == dict.fromkeys(
        ("volume", "image", "signal", "head"), "dense"
    )
    why = "no other plan is known" if spec == "products" else "work is shared along one or two axes, not three"
    assert rows["volume"].plan.reason == why


def test_another_method_is_folded_like_dense_layers(monkeypatch):
    register_products(monkeypatch)
    model, x = images("products")
    fast = check(model, x)
    assert set(kinds(fast)) == {"dense"}
    assert fast.deployment.rows[0].folded == ("norm",)
    assert type(fast[0]) is nn.Conv2d
    assert {row.plan.reason for row in fast.deployment.rows} == {"no other plan is known"}


def test_a_single_layer(monkeypatch):
    register_products(monkeypatch)
    model, _ = volumes("products")
    fast = check(model.image, torch.randn(2, 16, 4, 5))
    assert type(fast) is nn.ConvTranspose2d
    assert fast.deployment.rows[0].name == ""
