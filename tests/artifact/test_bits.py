"""Bits of offsets and selections: those of a report are those of the arrays in the file, for every rule."""

import math

import pytest
import torch
from every_spec import SPECS
from safetensors.torch import load_file
from torch import nn

import autosample
from autosample.nn import compressed_layers

MOVING, TWO = {"assignment": "learned"}, {"mixing": "two"}
MORE = {
    "strides": {"preset": "fsnet", "options": {"strides": "any"}},
    "denser": {"preset": "wsnet", "denser": 2},
    "coarse": {"preset": "random", "grid": 4},
    "table of columns": {"preset": "random", "columns": "table", "layout": "taps"},
    "logit": {"preset": "dfsnet", "options": {"unit": "logit"}},
    "positions on a grid": {"preset": "dfsnet", "grid": 3, "options": {"unit": "positions"}},
    "patches": {"preset": "nes", "options": {"patch": 3}},
    "places and map": {"preset": "nes", "options": {"reads": "places", "forward": "map"}},
    "few candidates": {"preset": "random", "rule": "categorical", "options": {"candidates": 5, "start": "random"}},
    "strided candidates": {"preset": "random", "rule": "categorical", "options": {"start": "strided"}},
    "zeros": {"preset": "kmeans", "options": {"zeros": 0.5}},
    "whole kernels": {"preset": "kmeans", "window": 9},
    "learned blocks": {"preset": "folded", "options": MOVING},
    "learned blocks, ordered channels": {"preset": "folded", "options": {**MOVING, "permutation": "energy"}},
    "signs only": {"preset": "folded", "options": {"signs": "learned"}},
    "shares only": {"preset": "folded", "options": TWO},
    "everything": {
        "preset": "folded",
        "options": {**TWO, "signs": "learned", "assignment": "energy", "permutation": "energy", "blocks": 5},
    },
    "a larger learner": {"preset": "conditioned", "options": {"experts": 3, "hidden": 7}},
}
EVERY = {**SPECS, **MORE}


def made() -> nn.Module:
    shape = nn.Unflatten(1, (21, 4, 6))
    return nn.Sequential(
        nn.Conv1d(6, 21, 9), nn.Flatten(1), shape, nn.Conv2d(21, 26, 3), nn.Flatten(1), nn.Linear(208, 30)
    )


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.every(3)
def test_bits_are_those_of_the_file(name, hard, tmp_path):
    torch.manual_seed(0)
    net = made()
    size = {"options": {"products": 1}} if name == "strassen" else {"ratio": 3, "share": "even"}
    autosample.convert_(net, EVERY[name], **size)
    net(torch.randn(2, 6, 32))
    if hard:
        autosample.harden_(net)
    told = autosample.report(net)
    autosample.save(net, tmp_path, factory=made)
    tensors = load_file(tmp_path / "model.safetensors")
    rows = {row.name: row for row in told.rows}
    layers = compressed_layers(net)
    assert len(layers) == 3
    for layer_name, layer in layers.items():
        own = {
            name.removeprefix(f"{layer_name}."): t for name, t in tensors.items() if name.startswith(layer_name + ".")
        }
        chosen = {name: t for name, t in own.items() if name.startswith(("offsets.", "columns."))}
        bits = rows[layer_name].position_bits
        # whole bytes of one or two arrays: nothing else is lost
        assert 0 <= 8 * sum(t.nbytes for t in chosen.values()) - bits < 8 * max(len(chosen), 1)
        if len(chosen) == 1:
            assert sum(t.nbytes for t in chosen.values()) == math.ceil(bits / 8)
        assert rows[layer_name].stored_bytes == sum(t.nbytes for t in own.values())
        if hasattr(layer, "offsets"):
            restored = layer.offsets.restored(
                {n.removeprefix("offsets."): t for n, t in own.items() if "offsets." in n}
            )
            assert torch.equal(restored(), autosample.harden_(net).get_submodule(layer_name).offsets())
    assert told.stored_bytes == sum(t.nbytes for t in tensors.values())
