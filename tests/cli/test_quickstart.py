import json

import pytest
import torch

from autosample.cli.main import main
from autosample.errors import ConfigError
from autosample.experiments import latency
from autosample.experiments.record import read_record
from autosample.experiments.run import train
from autosample.system.timing import Timing

SMALL = ["--epochs", "1", "--seeds", "1", "--model", "digitnet", "--image_size", "8"]


def record_of(folder, method):
    """The record of a method, of which there is one."""
    (path,) = (folder / "records").glob(f"*-{method}-*seed0*.json")
    return path


def clock(sides, rounds):
    """Each deployed net takes a microsecond longer than the one before, for one image."""
    for side in sides:
        assert side().shape == (1, 10)
    return [Timing(1e-6 * i, 1e-6 * i, 1e-6 * i, rounds) for i in range(1, len(sides) + 1)]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(latency, "time_in_turn", clock)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("quickstart")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "time_in_turn", clock)
        assert main(["quickstart", "--out", str(out), *SMALL]) == 0
        yield out
    torch.set_num_threads(threads)


def test_results_pictures_and_records(done):
    results = json.loads((done / "results.json").read_text())
    assert [row["method"] for row in results["rows"]] == ["dense", "wsnet", "folded", "autosample"]
    dense, *others = results["rows"]
    assert all(row["stored_bytes"] < dense["stored_bytes"] and row["ratio"] > 1 for row in others)
    assert all(row["macs"] > 0 for row in results["rows"])
    assert [row["latency_ms"] for row in results["rows"]] == [0.001, 0.002, 0.003, 0.004]
    assert len(results["records"]) == 4
    for name in ("accuracy", "windows-wsnet", "windows-folded", "windows-autosample"):
        assert (done / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not list(done.rglob("*partial*"))


def test_a_second_call_prints_what_is_there(done, capsys):
    stamps = {path: path.stat().st_mtime_ns for path in (done / "records").iterdir()}
    assert main(["quickstart", "--out", str(done), *SMALL]) == 0
    said = capsys.readouterr().out
    assert "All 4 runs are done in" in said
    results = json.loads((done / "results.json").read_text())["rows"]
    assert all(f" {row['latency_ms']:.3f} " in said for row in results)
    assert f" {results[0]['latency_ms'] / results[2]['latency_ms']:.2f}x " in said
    assert {path: path.stat().st_mtime_ns for path in (done / "records").iterdir()} == stamps


def test_it_goes_on_where_it_stopped(done, capsys):
    record_of(done, "folded").unlink()
    kept = record_of(done, "wsnet").stat().st_mtime_ns
    before = json.loads((done / "results.json").read_text())
    assert main(["quickstart", "--out", str(done), *SMALL]) == 0
    assert "3 of 4 runs are done in" in capsys.readouterr().out
    assert record_of(done, "wsnet").stat().st_mtime_ns == kept
    after = json.loads((done / "results.json").read_text())
    accuracies = [[record["accuracy"] for record in results["records"]] for results in (before, after)]
    assert accuracies[0] == accuracies[1]


def test_a_corrupt_record_is_a_clear_error(done, capsys):
    path = record_of(done, "folded")
    whole = path.read_text()
    for text in (whole[:50], "[]", '{"settings": {}}', '{"a": 1}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"folded-.* is not a record .*delete it"):
            read_record(path)
    assert main(["quickstart", "--out", str(done), *SMALL]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    path.write_text(whole)


@pytest.mark.parametrize(
    ("option", "value"), [("--epochs", "0"), ("--seeds", "0"), ("--image_size", "0"), ("--ratio", "0")]
)
def test_unusable_options_are_one_line(option, value, tmp_path, capsys):
    assert main(["quickstart", "--out", str(tmp_path / "q"), *SMALL, option, value]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert option.strip("-") in error
    assert not (tmp_path / "q").exists()


def test_equal_settings_give_equal_runs():
    from autosample.data import Digits

    settings = {"model": "digitnet", "spec": "autosample", "ratio": 8, "seed": 2}
    runs = [train(Digits(batch_size=128, seed=2, val_fraction=0.0), settings, epochs=1)[1] for _ in range(2)]
    assert runs[0].accuracy == runs[1].accuracy
    assert runs[0].ratio == pytest.approx(runs[0].dense_bytes / runs[0].stored_bytes)
