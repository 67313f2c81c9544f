"""The verbs about saved models."""

import json
import re

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

from autosample.artifact import load_any
from autosample.nn import compressed_layers


def test_from_a_run_to_a_quantised_model_and_its_card(autosample, trained, tmp_path):
    checkpoint = trained / "checkpoints" / "last.ckpt"
    code, out, err = autosample("quantize", checkpoint, "--bits=4", "--method=codebook", "--out", tmp_path / "a")
    assert (code, err) == (0, "")
    assert "times smaller than dense" in out
    model, config = load_any(tmp_path / "a")
    assert model.stages[1].conv.quantizer("summary").bits == 4
    assert (config.class_names, config.facts["data"]) == (tuple("0123456789"), "Digits")
    assert config.preprocessing["input_size"] == [1, 16, 16]
    code, out, err = autosample("quantize", tmp_path / "a", "--layers=all", "--rest=fp16", "--out", tmp_path / "b")
    assert (code, err) == (0, "")
    assert load_any(tmp_path / "b")[1].class_names == config.class_names
    assert list(load_any(tmp_path / "b")[1].facts["metrics"]) == ["validation accuracy, before quantising"]
    (tmp_path / "b/README.md").unlink()
    code, card, err = autosample("card", tmp_path / "b", "--write")
    assert (code, err) == (0, "")
    assert (tmp_path / "b/README.md").read_text() == card
    assert yaml.safe_load(card.split("---")[1])["datasets"] == ["Digits"]


def test_from_a_dense_net_to_a_file_for_another_runtime(autosample, fit, tmp_path):
    """Train, save, warm start, fine-tune (offsets become integers on the way), quantise, export, predict."""
    pytest.importorskip("onnxruntime")
    assert fit("--model.spec=dense", "--name=dense").code == 0
    dense = next((tmp_path / "dense").rglob("last.ckpt"))
    assert autosample("export", dense, "--format=artifact", "--out", tmp_path / "teacher").code == 0
    weights = tmp_path / "teacher/model.safetensors"
    start = ("--model.warm_start=true", f"--model.model_args.checkpoint_path={weights}", "--model.ratio=2")
    assert fit(*start, "--model.lr=1e-9", "--name=tuned").code == 0
    tuned = next((tmp_path / "tuned").rglob("last.ckpt"))
    fitted, given = load_any(tuned)[0], load_any(dense)[0]
    for name, layer in compressed_layers(fitted).items():
        wanted = given.get_submodule(name).weight
        assert (layer.weight - wanted).norm() < 0.9 * wanted.norm(), f"{name} does not start from the weights"
    weights.unlink()  # only the training needs it
    assert autosample("quantize", tuned, "--out", tmp_path / "small").code == 0
    code, out, err = autosample("export", tmp_path / "small", "--format=onnx", "--out", tmp_path / "small.onnx")
    assert (code, err) == (0, "")
    assert "largest error" in out
    card = (tmp_path / "small/README.md").read_text()
    assert "validation accuracy, before quantising" in card
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    assert "%" in autosample("predict", tmp_path / "small", tmp_path / "noise.png").out
    code, _, err = fit(*start)
    assert code == 2
    assert "checkpoint_path must be a file of weights" in err


def test_mistakes(autosample, trained, tmp_path):
    checkpoint = trained / "checkpoints" / "last.ckpt"
    for args, word in (
        (("quantize", checkpoint), "--out"),
        (("quantize", checkpoint, "--out", tmp_path, "--bits=9"), "bits"),
        (("quantize", tmp_path, "--out", tmp_path / "x"), "config.json"),
        (("quantize", trained / "config.yaml", "--out", tmp_path), "checkpoint"),
        (("card", checkpoint), "folder"),
    ):
        code, out, err = autosample(*args)
        assert (code, out) == (2, "")
        assert word in err
        assert err.count("\n") == 1


def test_training_with_fake_quantisation(fit, tmp_path):
    code, _, err = fit("--config", "quantize/codebook4", "--model.ratio=16")
    assert (code, err) == (0, "")
    run = next(tmp_path.rglob("last.ckpt"))
    model, _ = load_any(run)
    assert model.stages[1].conv.quantizer("summary").bits == 4
    assert (run.parents[1] / "report.json").is_file()


def test_the_dense_weights_load_into_the_stock_model(autosample, trained, tmp_path):
    file = tmp_path / "new" / "dense.safetensors"
    code, out, err = autosample("export", trained / "checkpoints/last.ckpt", "--format=dense", "--out", file)
    assert (code, err) == (0, "")
    assert out.startswith(f"{file}: {file.stat().st_size:,} bytes, the weights of a dense ")
    stock = timm.create_model("digitnet", num_classes=10, checkpoint_path=str(file)).eval()
    x = torch.rand(4, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(stock(x), load_any(trained / "checkpoints/last.ckpt")[0](x))
    assert autosample("export", trained / "checkpoints/last.ckpt", "--format=dense", "--out", tmp_path).code == 2


@pytest.mark.parametrize("extra", [(), ("--config=quantize/int8",)])
def test_one_size_everywhere(autosample, fit, tmp_path, extra):
    """`fit`, `quantize`, `card`, the configuration and the file itself agree on what is stored."""
    told = re.compile(r"stored ([\d,]+) bytes, ([\d.]+) times smaller")
    fitted = told.search(fit("--config=spec/autosample", "--model.ratio=4", *extra).out)
    last = next(tmp_path.rglob("last.ckpt"))
    assert autosample("export", last, "--format=artifact", "--out", tmp_path / "same").code == 0
    code, out, _ = autosample("quantize", last, "--bits=8", "--out", tmp_path / "small")
    assert code == 0
    quantised = told.search(out)
    for folder, line in (("same", fitted), ("small", quantised)):
        stored, ratio = int(line[1].replace(",", "")), float(line[2])
        raw = (tmp_path / folder / "model.safetensors").read_bytes()
        assert stored == len(raw) - 8 - int.from_bytes(raw[:8], "little")  # without the file's header
        config = json.loads((tmp_path / folder / "config.json").read_text())
        assert config["stored_bytes"] == stored
        card = autosample("card", tmp_path / folder).out
        assert f"{stored:,} bytes of tensors, {ratio:.1f} times smaller" in card
    assert (fitted[1] == quantised[1]) == bool(extra)  # it was trained at these levels
