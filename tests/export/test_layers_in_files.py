"""Other methods' layers and other kinds of layers in files: their weight is composed in the graph."""

import pytest
import torch
from other_layers import Products, images, register_products, volumes

import autosample
from autosample.export.check import TOLERANCE
from autosample.export.portable import portable


def write(form, model, folder, x, **options):
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    export = autosample.export_onnx if form == "onnx" else autosample.export_pt2
    return export(model, folder / f"model.{form}", x, **options)


@pytest.mark.parametrize("form", ["onnx", "pt2"])
@pytest.mark.parametrize("spec", ["wsnet", pytest.param("products", marks=pytest.mark.slow)])
def test_volumes_and_transposed_layers_are_direct(spec, form, tmp_path, monkeypatch):
    register_products(monkeypatch)
    model, x = volumes(spec)
    done = write(form, model, tmp_path, x)
    assert done.error <= TOLERANCE
    assert done.forms == dict.fromkeys(("volume", "image", "signal", "head"), "direct")


@pytest.mark.parametrize("form", [pytest.param("onnx", marks=pytest.mark.slow), "pt2"])
def test_another_method_keeps_what_it_stores(form, tmp_path, monkeypatch):
    register_products(monkeypatch)
    monkeypatch.setattr("autosample.export.check._FIXED", 30_000 if form == "pt2" else 8_000)
    model, x = images("products")
    done = write(form, model, tmp_path, x)
    assert done.error <= TOLERANCE
    assert set((done.forms or {}).values()) == {"direct"}
    fast = autosample.deploy(model, x, measure=False)
    again = write(form, fast, tmp_path, x)
    assert (again.error <= TOLERANCE, again.bytes, again.stored_bytes) == (True, done.bytes, done.stored_bytes)
    dense = write(form, model, tmp_path, x, dense=True)
    assert dense.bytes > done.bytes
    assert dense.error <= TOLERANCE


def test_quantised_tensors_of_another_method(tmp_path, monkeypatch):
    register_products(monkeypatch)
    model, x = images("products")
    autosample.quantize_(model, 4, method="codebook")
    done = write("pt2", model, tmp_path, x)
    assert done.error <= TOLERANCE
    stored = portable(model, x).model.state_dict()
    codes = {name: tensor for name, tensor in stored.items() if "codes" in name}
    assert len(codes) == 6
    layers = [layer for layer in model.modules() if isinstance(layer, Products)]
    numbers = sum(layer.left.numel() + layer.right.numel() for layer in layers)
    assert sum(tensor.nbytes for tensor in codes.values()) <= numbers // 2 + len(codes)
    assert not any(name.endswith((".left", ".right")) for name in stored)


def test_a_dense_model_of_any_kind_can_be_written_at_256_levels(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv3d(2, 32, 3), torch.nn.ReLU(), torch.nn.Conv3d(32, 8, 3)).eval()
    x = torch.randn(1, 2, 6, 6, 6)
    whole, few = (write("pt2", model, tmp_path, x, int8_weights=int8) for int8 in (False, True))
    assert whole.error <= TOLERANCE
    assert few.bytes < 0.7 * whole.bytes
    assert 0 < few.error < 0.1
