"""The verbs about saved models."""

import yaml

from autosample.artifact import load_any


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
    (tmp_path / "b/README.md").unlink()
    code, card, err = autosample("card", tmp_path / "b", "--write=true")
    assert (code, err) == (0, "")
    assert (tmp_path / "b/README.md").read_text() == card
    assert yaml.safe_load(card.split("---")[1])["datasets"] == ["Digits"]


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


def test_training_with_fake_quantisation(fit, configs, tmp_path):
    code, _, err = fit("--config", configs / "quantize" / "codebook4.yaml", "--model.ratio=16")
    assert (code, err) == (0, "")
    run = next(tmp_path.rglob("last.ckpt"))
    model, _ = load_any(run)
    assert model.stages[1].conv.quantizer("summary").bits == 4
    assert (run.parents[1] / "report.json").is_file()
