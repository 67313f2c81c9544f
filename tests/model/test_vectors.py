"""Codebooks of vectors of numbers (DKM's sub-vectors): fewer than one bit a number, in summaries and dense layers."""

import copy
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.cluster import KMeans
from torch import nn

import autosample
from autosample import quantize_, report
from autosample.artifact import compact_state, load_any
from autosample.coding.vectors import as_rows, nearest_codewords, soft_vectors
from autosample.errors import ArtifactError, ConfigError, QuantizationError
from autosample.training import FakeQuantize


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 11)).eval()


def test_soft_assignments_are_those_of_dkm():
    """By hand: softmax of negative distances and weighted means, five times, then mixtures. All codewords are near."""
    rng = np.random.default_rng(0)
    w, start = rng.normal(size=(50, 2)), rng.normal(size=(4, 2))

    def shares(c):
        gaps = np.linalg.norm(c[:, None] - c[None], axis=2) + np.diag([np.inf] * 4)
        tau = 0.5 * gaps.min(1).mean()
        a = np.exp(-np.linalg.norm(w[:, None] - c[None], axis=2) / tau)
        return a / a.sum(1, keepdims=True)

    c = start
    for _ in range(5):
        a = shares(c)
        c = a.T @ w / a.sum(0)[:, None]
    shown, moved = soft_vectors(torch.from_numpy(w).float(), torch.from_numpy(start).float(), 0.5)
    np.testing.assert_allclose(moved.numpy(), c, atol=1e-4)
    np.testing.assert_allclose(shown.numpy(), shares(c) @ c, atol=1e-4)


def test_soft_vectors_are_differentiable_and_hard_in_the_limit():
    values = torch.randn(6, 7, requires_grad=True)
    codebook = as_rows(torch.randn(16), 4)
    shown, moved = soft_vectors(values, codebook, 1e-3)
    rows = as_rows(values.detach(), 4)
    expected = moved[nearest_codewords(rows, moved)[:, 0]].reshape(-1)[:42].view(6, 7)
    torch.testing.assert_close(shown.detach(), expected, atol=1e-3, rtol=0)
    (soft_vectors(values, codebook, 0.5)[0].square().sum()).backward()
    assert values.grad.isfinite().all()
    assert values.grad.abs().max() > 0


@pytest.mark.parametrize(("bits", "vector"), [(4, 4), (4, 8), (6, 3), (2, 5)])
def test_dense_layers(bits, vector):
    """Each vector at one of the codewords, as near as scikit-learn's; the bytes of `bits / vector` bits a number."""
    model = net()
    before = [layer.weight.detach().clone() for layer in (model[0], model[3])]
    result = quantize_(model, bits, method="codebook", layers="all", vector=vector)
    for layer, old, row in zip((model[0], model[3]), before, result.rows, strict=True):
        rows = as_rows(layer.weight.detach(), vector)[: old.numel() // vector]
        assert len(rows.unique(dim=0)) <= 2**bits
        samples = as_rows(old, vector).numpy()
        best = KMeans(min(2**bits, len(samples)), n_init=1, random_state=0).fit(samples).inertia_
        assert float((layer.weight - old).detach().square().sum()) <= 1.15 * best + 1e-6
        codes = -(-old.numel() // vector)
        assert row.after == -(-codes * bits // 8) + 4 * 2**bits * vector
    told = report(model)
    assert told.stored_bytes == sum(t.nbytes for t in compact_state(model).values()) == result.after
    assert f"{bits} bits, codebook, vectors of {vector}" in told.rows[0].note


@pytest.mark.parametrize("preset", ["autosample", "wsnet", "folded"])
def test_summaries(preset):
    model = net()
    autosample.convert_(model, preset, ratio=2)
    quantize_(model, 3, method="codebook", vector=4)
    rows = as_rows(model[0].summary.detach(), 4)
    assert len(rows.unique(dim=0)) <= 9  # and the last, incomplete vector


@pytest.mark.parametrize("compression", ["none", "huffman"])
def test_saved_models(tmp_path, compression):
    model, x = net(), torch.randn(3, 8, 6, 6)
    quantize_(model, 4, method="codebook", layers="all", vector=4, rest="fp16")
    saved = autosample.save(model, tmp_path, factory=net, compression=compression)
    data = (tmp_path / "model.safetensors").read_bytes()
    assert saved.stored_bytes == len(data) - 8 - int.from_bytes(data[:8], "little")
    loaded = autosample.load(tmp_path, factory=net)
    assert torch.equal(loaded(x), model(x))
    assert report(loaded).stored_bytes == report(model).stored_bytes
    # quantised again with the same settings, nothing changes
    again = quantize_(copy.deepcopy(loaded), 4, method="codebook", layers="all", vector=4)
    assert max(row.worst for row in again.rows) == 0


@pytest.mark.parametrize("vector", [0, 65, "4", 3])
def test_another_length_in_a_file_is_refused(tmp_path, vector):
    from autosample.artifact.config import _checksum

    model = net()
    quantize_(model, 4, method="codebook", layers="all", vector=4)
    autosample.save(model, tmp_path, factory=net)
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop("checksum")
    config["layers"]["0"]["coding"]["numbers"]["vector"] = vector
    (tmp_path / "config.json").write_text(json.dumps({**config, "checksum": _checksum(config)}))
    with pytest.raises(ArtifactError):
        autosample.load(tmp_path, factory=net)


@pytest.mark.slow
def test_exported_models(tmp_path):
    pytest.importorskip("onnxruntime")
    model, x = net(), torch.randn(2, 8, 6, 6)
    quantize_(model, 4, method="codebook", layers="all", vector=4)
    done = autosample.export_onnx(model, tmp_path / "net.onnx", x)
    assert done.error < 1e-4
    assert done.bytes < 4 * sum(p.numel() for p in net().parameters()) / 2


def test_training_with_blocks(tmp_path):
    """Fake quantisation moves codewords with the weights; a checkpoint holds them; what is stored is what was shown."""
    import pytorch_lightning as pl

    from autosample.data import Digits
    from autosample.training import Classifier

    model = Classifier(model="digitnet", num_classes=10, ratio=8, lr=3e-3)
    callback = FakeQuantize(4, "codebook", start=0.0, vector=4)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(
        max_epochs=2,
        limit_train_batches=4,
        limit_val_batches=0,
        callbacks=[callback],
        default_root_dir=tmp_path,
        **quiet,
    )
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, datamodule=Digits(batch_size=16))
        trainer.save_checkpoint(tmp_path / "last.ckpt")
    summary = model.net.get_submodule("stages.2.conv").summary.detach()
    assert len(as_rows(summary, 4).unique(dim=0)) <= 17
    loaded, _ = load_any(tmp_path / "last.ckpt")
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(x), model.net.eval()(x))


@pytest.mark.parametrize(
    ("options", "text"),
    [({"vector": 0}, "from 1 to 64"), ({"vector": 2.0}, "from 1 to 64"), ({"vector": 4}, "needs a codebook")],
)
def test_mistakes(options, text):
    with pytest.raises(QuantizationError, match=text):
        quantize_(net(), 4, layers="all", **options)
    with pytest.raises((QuantizationError, ConfigError), match=text):
        FakeQuantize(4, **options)


def test_files_without_blocks_do_not_mention_them(tmp_path):
    model = net()
    quantize_(model, 4, method="codebook", layers="all")
    autosample.save(model, tmp_path, factory=net)
    assert "vector" not in (tmp_path / "config.json").read_text()
    assert safetensors.torch.load_file(tmp_path / "model.safetensors")["0.numbers.codebook"].shape == (16,)


@pytest.mark.slow
@pytest.mark.parametrize("vector", [4, 1])
def test_a_layer_that_learns_codewords_can_be_compiled(vector):
    """Steps of soft k-means end early where codewords have settled; a graph makes all of them, which changes little."""
    from autosample.model.quantize import attach_quantizers

    torch._dynamo.reset()
    torch.manual_seed(0)
    layer, x = nn.Sequential(nn.Linear(24, 16)), torch.randn(5, 24)
    autosample.convert_(layer, "kmeans", ratio=4)
    attach_quantizers(layer, 3, "codebook", vector=vector)
    layer[0].start_levels("summary")
    twin = copy.deepcopy(layer)
    layer.compile(fullgraph=True, backend="aot_eager")
    out, expected = layer(x), twin(x)
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-4)
    for result in (out, expected):
        result.square().mean().backward()
    torch.testing.assert_close(layer[0].summary.grad, twin[0].summary.grad, rtol=1e-2, atol=1e-4)
