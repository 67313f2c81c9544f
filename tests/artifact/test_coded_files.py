"""Saved models with Huffman codes: the bytes of the report, the same model, and old files."""

import json

import pytest
import safetensors.torch
import torch

import autosample
from autosample.artifact import compact_state
from autosample.errors import ArtifactError
from autosample.nn.stored import coded_state, plain_state


def payload(path) -> int:
    """Bytes of a safetensors file without its header."""
    data = path.read_bytes()
    return len(data) - 8 - int.from_bytes(data[:8], "little")


@pytest.fixture(scope="module")
def net():
    """A net whose codewords have very different frequencies, and quantised dense layers."""
    torch.manual_seed(0)
    net = autosample.models.create("digitnet", num_classes=7).eval()
    autosample.convert_(net, "kmeans", ratio=32, options={"zeros": 0.7}, warm_start=True)
    autosample.quantize_(net, 4, layers="all")
    return net


def test_the_report_states_the_bytes_of_the_file(net, tmp_path):
    result = autosample.report(net)
    saved = autosample.save(net, tmp_path / "plain")
    assert payload(tmp_path / "plain/model.safetensors") == saved.stored_bytes == result.stored_bytes
    coded = autosample.save(net, tmp_path / "coded", compression="huffman")
    assert payload(tmp_path / "coded/model.safetensors") == coded.stored_bytes == result.coded_bytes
    assert result.coded_bytes < 0.8 * result.stored_bytes
    assert f"{result.coded_bytes:,} bytes" in str(result)
    # beside each other, layer by layer
    for row in result.rows:
        assert row.coded_bytes <= row.stored_bytes
    assert result.total().coded_bytes == sum(row.coded_bytes for row in result.rows)


def test_the_same_model_comes_back(net, tmp_path):
    autosample.save(net, tmp_path, compression="huffman")
    loaded, x = autosample.load(tmp_path), torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(x), net(x))
    before, after = compact_state(net), compact_state(loaded)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert autosample.report(loaded).coded_bytes == autosample.report(net).coded_bytes


def test_another_compression_replaces_the_file(net, tmp_path):
    for compression in ("xz", "huffman", "none", "huffman"):
        autosample.save(net, tmp_path, compression=compression)
        assert len(list(tmp_path.iterdir())) == 3
        autosample.load(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tensors"]["compression"] == "huffman"


def test_a_model_without_gain_is_saved_plainly(tmp_path):
    net = autosample.models.create("digitnet", num_classes=7)
    result = autosample.report(net)
    assert result.coded_bytes == result.stored_bytes
    assert "huffman" not in str(result)
    autosample.save(net, tmp_path, compression="huffman")
    assert safetensors.torch.load_file(tmp_path / "model.safetensors").keys() == compact_state(net).keys()


def test_shared_codes_are_there_once(tmp_path):
    def make():
        first = torch.nn.Linear(64, 64)
        return torch.nn.Sequential(first, torch.nn.ReLU(), first, torch.nn.Linear(64, 8))

    torch.manual_seed(0)
    net = make()
    autosample.quantize_(net, 4, layers="all")
    autosample.save(net, tmp_path, factory=make, compression="huffman")
    assert payload(tmp_path / "model.safetensors") == autosample.report(net).coded_bytes
    x = torch.randn(2, 64)
    assert torch.equal(autosample.load(tmp_path, factory=make)(x), net(x))


def test_a_tensor_in_both_forms_is_refused(net):
    state = coded_state(net)
    name = next(name for name in state if name.endswith(".huffman"))
    with pytest.raises(ArtifactError, match="with and without"):
        plain_state({**state, name.removesuffix(".huffman"): torch.zeros(3)})
