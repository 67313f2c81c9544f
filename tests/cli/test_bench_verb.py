"""The verb `bench`: what it writes and prints, and its mistakes."""

import json
import re
from dataclasses import replace

import pytest

from autosample.cli import bench as verb
from autosample.experiments.bench import cases
from autosample.experiments.bench.record import Measured, Row, read
from autosample.system.timing import Ratio

TINY = cases.Workload(name="tiny", kind="layer", layer=cases.conv(4, 8, 4), input=(4, 32), spec=cases.wsnet(2, 2))


@pytest.fixture
def asked(monkeypatch):
    """The measurements that were asked for; a fast answer to each."""
    calls = []

    def measure(work, **options):
        calls.append((work, options))
        sides = {"dense": Measured(2e-3, 1e-3, 3e-3, 3, 0.0), "deployed": Measured(1e-3, 1e-3, 1e-3, 3, 0.0)}
        wrong = "deployed: outputs differ" if work.name == "wrong" else ""
        return Row(work, options["threads"], sides, {} if wrong else {"deployed": Ratio(2, 1, 3)}, error=wrong)

    monkeypatch.setattr(verb, "measure", measure)
    monkeypatch.setattr(verb.fused, "why_not", lambda: "not in these tests")
    rows = [replace(TINY, targets=(3,)), replace(TINY, name="other")]
    monkeypatch.setitem(cases.SUITES, "tiny", lambda: rows)
    monkeypatch.setitem(cases.SUITES, "bad", lambda: [replace(TINY, name="wrong")])
    return calls


def test_a_record_and_a_picture_for_each_number_of_threads(autosample, asked, tmp_path):
    options = ("--no-compile", "--no-memory", "--rounds", 4, "--out", tmp_path)
    code, out, err = autosample("bench", "tiny", "--threads", 1, 2, *options)
    assert (code, err) == (0, "")
    assert {p.name for p in tmp_path.iterdir()} == {f"tiny-{n}t.{kind}" for n in (1, 2) for kind in ("json", "png")}
    assert [(work.name, work.batch, o["threads"]) for work, o in asked] == [
        ("tiny", 1, 1), ("other", 1, 1), ("tiny", 1, 2), ("other", 1, 2),
    ]  # fmt: skip
    assert all((o["compiled"], o["memory"], o["rounds"]) == (False, False, 4) for _, o in asked)
    assert "target missed: tiny: 2.00x with deployed, 3x is required" in out
    record = read(tmp_path / "tiny-2t.json")
    assert record.about["fused_kernel"]["why_not"] == "not in these tests"
    assert {"date", "hardware", "torch", "threads", "dtype", "compiled"} <= set(record.about)


def test_the_command_in_a_record_makes_it_again(autosample, asked, tmp_path):
    options = ("--batch", 2, "--no-compile", "--only", "other", "--dtype", "bfloat16", "--threads", 2)
    assert autosample("bench", "tiny", *options, "--out", tmp_path / "a").code == 0
    written = tmp_path / "a" / "tiny-b2-bfloat16-2t.json"
    words = json.loads(written.read_text())["command"].split()
    assert words[0] == "autosample"
    assert autosample(*words[1:], "--out", tmp_path / "b").code == 0
    assert read(tmp_path / "b" / written.name) == read(written)
    assert asked[0] == asked[1]


def test_several_suites_and_some_of_their_rows(autosample, asked, tmp_path):
    assert autosample("bench", "tiny", "training", "--only", "other", "--out", tmp_path).code == 0
    assert [work.name for work, _ in asked] == ["other"]
    assert {p.name for p in tmp_path.iterdir()} == {"tiny-1t.json", "tiny-1t.png"}


def test_a_model_of_ones_own(autosample, asked, tmp_path):
    options = ("--spec", "wsnet", "--ratio", 6, "--input", 3, 32, 32)
    assert autosample("bench", "--model", "test_resnet", *options, "--out", tmp_path).code == 0
    work = asked[0][0]
    assert (work.model, work.spec, work.input) == ("test_resnet", {"preset": "wsnet", "ratio": 6}, (3, 32, 32))
    command = read(tmp_path / "model-1t.json").about["command"]
    assert command.endswith("--model test_resnet --spec wsnet --ratio 6 --input 3 32 32")


def test_wrong_outputs_end_with_a_mistake_after_all_is_written(autosample, asked, tmp_path):
    code, out, err = autosample("bench", "bad", "tiny", "--out", tmp_path)
    assert code == 2
    assert err == (
        "autosample: error: outputs must equal those of dense torch, got errors in wrong (bad, 1 thread): "
        "see the table above\n"
    )
    assert "wrong: ERROR: deployed: outputs differ" in out
    assert {"bad-1t.json", "tiny-1t.json"} <= {p.name for p in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("args", "pattern"),
    [
        ([], "bench needs a suite or --model, got neither: suites are layers, models"),
        (["layer"], 'no suite is called "layer": did you mean "layers"'),
        (["inputs"], 'no suite is called "inputs": did you mean "input"'),
        (["folded", "input"], "bench input is a command of its own, got folded input: put input first"),
        (["layers", "--only", "conv1d-s4c5"], 'no workload is called "conv1d-s4c5": did you mean "conv1d-s4c4"'),
        (["layers", "--threads", "0"], "threads must be at least 1, got 0"),
        (["layers", "--threads", "x"], "threads must be a whole number, got x"),
        (["layers", "--rounds", "0"], "rounds must be at least 1, got 0"),
        (["layers", "--batch", "-1"], "batch must be at least 1, got -1"),
        (["layers", "--dtype", "float16"], "dtype must be one of float32, bfloat16, got float16"),
        (["layers", "--device", "tpu"], "device must be cpu or cuda, got tpu"),
        (["layers", "--thread", "2"], 'no option is called "thread": did you mean "threads"'),
        (["layers", "--model", "resnet18"], r"bench takes either suites or --model, got both \(layers and resnet18\)"),
        (["--model", "resnet81", "--input", "3", "64", "64"], 'no model is called "resnet81": did you mean "resnet18"'),
        (["--model", "resnet18"], "--model needs the shape of one example, got none: write --input 3 224 224"),
        (["--model", "resnet18", "--input", "3", "0"], "input must be at least 1, got 0"),
        (["--model", "resnet18", "--input", "3", "8", "8", "--spec", "wsnt"], 'did you mean "wsnet"'),
        (["--model", "resnet18", "--input", "3", "8", "8", "--ratio", "0"], "ratio must be"),
    ],
)
def test_mistakes(autosample, tmp_path, args, pattern):
    code, out, err = autosample("bench", *args, "--out", tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("autosample: error: ")
    assert err.count("\n") == 1
    assert re.search(pattern, err), err
    assert not list(tmp_path.iterdir())


def test_help(autosample):
    code, out, err = autosample("bench", "--help")
    assert (code, err) == (0, "")
    assert "--no-compile" in out
    assert "layers" in out


def test_the_verb_measures(autosample, monkeypatch, tmp_path):
    """From the command line to the record, nothing replaced but the suite."""
    monkeypatch.setenv("AUTOSAMPLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(cases.SUITES, "tiny", lambda: [TINY])
    options = ("--no-compile", "--no-memory", "--rounds", 3, "--out", tmp_path / "out")
    code, out, err = autosample("bench", "tiny", *options)
    assert (code, err) == (0, "")
    row = read(tmp_path / "out" / "tiny-1t.json").rows[0]
    assert {"dense", "materialize", "reuse", "deployed"} <= set(row.sides)
    assert row.best in row.ratios
    assert "tiny" in out
