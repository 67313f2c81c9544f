"""Files that version 0.1.0 wrote load, with the outputs that it gave; see tests/fixtures."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import autosample.models
import autosample.nn
from autosample.artifact import load, load_any, save
from autosample.errors import ArtifactError, SpecError
from autosample.sampling import PRESETS, Spec, plan_geometry, settle
from autosample.sampling.rules.interpolated import InterpolatedOffsets
from autosample.sampling.spec import spec
from autosample.sampling.upgrade import upgraded

FIXTURES = Path(__file__).parents[1] / "fixtures"
FOLDERS = sorted(path.parent for path in (FIXTURES / "artifacts").glob("*/config.json"))
CHECKPOINTS = sorted((FIXTURES / "checkpoints").glob("*.ckpt"))
SPECS = json.loads((FIXTURES / "specs.json").read_text())
LAYERS = json.loads((FIXTURES / "formula.json").read_text())
# Settings that are gone: such specs mean something else now, and only their files are read.
# Options of presets that have others now.
BEFORE = {"dfsnet": {"unit": "logit"}, "nes": {"unit": "logit", "start": "strided"}}
GONE = {"gains", "scale_gradient", "kernel", "radius", "along", "across", "spread", "execution"}


def is_gone(changes):
    return bool(GONE & set(changes)) or changes.get("rule") in ("separable", "gumbel")


def _read(path):
    """Tensors with memory of their own: matrix products round differently where memory is not aligned."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
@pytest.mark.every(3)
def test_saved_models_give_the_same_outputs(folder, tmp_path):
    known, model = _read(folder / "expected.safetensors"), load(folder)
    with torch.no_grad():
        got = model(known["x"])
        # one was computed by reuse then, and `execution` is no part of a file any more
        # and processors add up in different orders
        torch.testing.assert_close(got, known["y_weight" if folder.name == "execution_reuse" else "y"])
        save(model, tmp_path)
        assert torch.equal(load(tmp_path)(known["x"]), got)


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.stem)
def test_checkpoints_give_the_same_outputs(path):
    if path.stem in ("by_kind", "int8"):  # a rule and factors that are gone, and shaped what the layers store
        with pytest.raises(ArtifactError, match=r"gains or the rule .* with version 0\.1\.0"):
            load_any(path)
        return
    known, (model, _) = _read(path.with_suffix(".safetensors")), load_any(path)
    with torch.no_grad():
        torch.testing.assert_close(model(known["x"]), known["y"])


@pytest.mark.parametrize("row", SPECS["specs"], ids=lambda row: f"{row['call'][0]} {row['call'][1]}")
def test_specs_of_files_plan_the_same_sizes(row):
    old = row["dict"]
    new, bits = Spec.from_dict(upgraded(old, "strided")), old.get("bits", 32)
    if new.rule == "strided" and old.get("rule") == "separable" and old.get("spread", 0.25) != 0:
        pytest.skip("a sum of two rules, which files hold as a table of offsets")
    for name, shape in SPECS["shapes"].items():
        wanted = row["plans"][name]
        if "error" in wanted or "gains" in old:
            continue
        planned = asdict(plan_geometry(new, shape, bits))
        assert {**planned, "kernel": list(planned["kernel"])} == wanted
        assert settle(new, shape, bits).rule == upgraded(row["settled"][name], "strided").get("rule", "strided")


@pytest.mark.parametrize("row", SPECS["specs"], ids=lambda row: f"{row['call'][0]} {row['call'][1]}")
def test_users_are_told_where_fields_went(row):
    preset, changes = row["call"]
    moved = set(changes) & {
        *GONE, "rate", "freeze_at", "afford", "start", "unit", "candidates", "spatial", "channel", "strides", "bits",
    }  # fmt: skip
    if not moved:
        return
    name = next(iter(moved))
    with pytest.raises(SpecError, match=r"options=|removed|planned_bits|context manager|gone"):
        spec(preset, **{name: changes[name]})


@pytest.mark.parametrize("row", [row for row in LAYERS if not is_gone(row["spec"][1])], ids=lambda row: row["name"])
def test_layers_sample_the_same_weights_from_the_same_seed(row):
    known = load_file(FIXTURES / "formula.safetensors")
    torch.manual_seed(row["seed"])
    preset, changes = row["spec"]
    face, new = getattr(autosample.nn, row["class"]), upgraded(changes, PRESETS[preset]["rule"])
    new["options"] = {**BEFORE.get(preset, {}), **new.get("options", {})}
    layer = face(*row["args"], **row["options"], spec=preset, **new).eval()
    own = {key.partition(".")[2]: value.clone() for key, value in known.items() if key.partition(".")[0] == row["name"]}
    # processors differ in the last digit of a sigmoid, and add up in different orders
    exact = {} if isinstance(layer.offsets, InterpolatedOffsets) else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(layer.weight.detach(), own["weight"], **exact)
    torch.testing.assert_close(layer(own["x"]), own["y"])
    assert layer.extra_repr() == row["extra_repr"]
    assert torch.equal(layer.offsets().long(), own["offsets"].long())
