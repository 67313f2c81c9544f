"""From a folder of records to the tables of the documents, and back."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

import autosample
from autosample.data import DATASETS
from autosample.experiments.collect import write_tables
from autosample.experiments.record import records_in, write_record
from autosample.export import FORMATS, write_model
from autosample.nn.kinds import KINDS
from autosample.reuse.plans import PLANS
from autosample.sampling import COLUMNS, PRESETS, RULES, Spec
from autosample.system.timing import Timing

ROOT = Path(__file__).parents[2]
MACHINE = {"device": "cpu", "hardware": "a processor", "threads": 1, "date": "2026-01-02"}
ACCURACY = {
    "dense": 0.9, "wsnet": 0.6, "random": 0.7, "random 4 bits root": 0.75, "hashednet": 0.8, "fsnet": 0.9,
    "autosample": 0.78, "folded": 0.77,
}  # fmt: skip
METHODS = [
    *("dense", "wsnet", "random", "hashednet", "fsnet"),
    {"preset": "random", "share": "root", "planned_bits": 4, "label": "random 4 bits root"},
    "autosample",
    "folded",
]


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A script as a module that keeps its results in a folder of the test."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))

    def load(name):
        monkeypatch.setattr(importlib.import_module("doctables.records"), "ROOT", tmp_path)
        module = importlib.import_module(name)
        if hasattr(module, "ROOT"):
            monkeypatch.setattr(module, "ROOT", tmp_path)
        return module

    return load


@pytest.fixture
def finished(grid, record, tmp_path):
    """A folder as `autosample ablate` leaves it, but for one run of fsnet."""
    made = grid(presets=METHODS, compare="autosample")
    out = tmp_path / "out"
    lacking = next(c.id for c in made.cells if c.label == "fsnet" and c.seed == 1)
    for cell in made.cells:
        if cell.id != lacking:
            score = ACCURACY[cell.label] + 0.02 * cell.seed
            date = f"2026-01-0{2 + cell.seed}"
            kept = record(cell, score, machine=MACHINE | {"date": date}, val_accuracy=None)
            write_record(out / "records" / f"{cell.name}.json", kept)
    write_tables(made, {c.id: r for c in made.cells for p, r in records_in(out / "records") if c.name in p.name}, out)
    (out / "accuracy.png").write_bytes(b"a picture")
    return out


def test_what_is_published_tells_command_machine_and_dates_and_can_be_restored(script, finished, tmp_path):
    publish = script("publish")
    publish.publish(finished, "--threads 1")
    folder = tmp_path / "results/ablation/small"
    assert json.loads((folder / "about.json").read_text()) == {
        "command": f"{script('publish').place_of('small')[1]} --threads 1",
        "hardware": "a processor",
        "torch": "0",
        "date": "2026-01-02 to 2026-01-03",
    }
    assert (folder / "accuracy.png").read_bytes() == b"a picture"
    publish.restore("small", tmp_path / "again")
    before, after = (
        {path.name: kept for path, kept in records_in(root / "records")} for root in (finished, tmp_path / "again")
    )
    assert before == after
    assert len(before) == 15


def test_the_summary_has_the_methods_beside_each_other(script, finished):
    script("publish").publish(finished, "")
    head, _, line = script("doctables.accuracy").summary().splitlines()
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "[Digits](../results/ablation/small/table.md)",
        *("`digitnet`", "8.0x", "32", "91.00 ± 1.41", "61.00 ± 1.41", "71.00 ± 1.41", "76.00 ± 1.41"),
        *("78.00 ± 1.41", "81.00 (`hashednet`)", "79.00 ± 1.41", "+8.00 (0)", "+1.00 (0)", "2"),
    ]
    assert head.count("|") == line.count("|")


def test_the_highlights_name_the_best_other_method_and_the_command(script, finished):
    script("publish").publish(finished, "")
    head, _, line, _, note = script("doctables.accuracy").highlights().splitlines()
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        *("[Digits](results/ablation/small/table.md), `digitnet`", "8x", "91.00 ± 1.41", "61.00 ± 1.41"),
        *("71.00 ± 1.41", "78.00 ± 1.41", "81.00 (`hashednet`)", "79.00 ± 1.41", "2"),
    ]
    assert head.count("|") == line.count("|")
    assert note.endswith("`autosample ablate ablation/{small}`, a processor, torch 0, 2026-01-02 to 2026-01-03.")


def test_documents_are_filled_between_their_marks(script, finished):
    script("publish").publish(finished, "")
    docs = script("update_docs")
    assert (
        docs.filled("a\n<!-- x -->\nold\n<!-- /x -->\nb", {"x": lambda: "new"}) == "a\n<!-- x -->\nnew\n<!-- /x -->\nb"
    )
    text = docs.accuracy.ablations()
    assert text.startswith("## small\n")
    assert "1 of 2" in text
    assert "`autosample ablate ablation/small`, a processor, torch 0, 2026-01-02 to 2026-01-03." in text
    assert "](../results/ablation/small/accuracy.png)" in text


def test_times_stand_below_the_accuracies_of_the_same_nets(script, finished, tmp_path):
    script("publish").publish(finished, "")
    folder = tmp_path / "results/ablation/small"
    times = {"median": 0.5, "speedup": {"median": 2.0, "low": 1.9, "high": 2.1}}
    files = {"median": 1.25, "speedup": {"median": 3.0, "low": 2.5, "high": 3.5}}
    about = {"command": "python measure.py", "date": "2026-01-04", "hardware": "a processor", "torch": "0"}
    kept = {**about, "threads": 1, "rows": [{"size": "8x", "method": "wsnet", **times, "onnxruntime": files}]}
    (folder / "latency.json").write_text(json.dumps(kept))
    text = script("doctables.accuracy").ablations()
    assert "| 8x | `wsnet` | 0.5 | 2.00 (1.90–2.10) | 1.25 | 3.00 (2.50–3.50) |" in text
    assert "Batch 1, float32, 1 thread;" in text
    assert "](../results/ablation/small/overview.png)" in text
    assert "accuracy.png" not in text


def test_what_beats_folded_in_accuracy_bytes_and_time_is_listed(script, finished, tmp_path):
    script("publish").publish(finished, "")
    planes = script("doctables.planes").planes
    assert planes().startswith("No records yet")
    # hashednet 81 %, autosample 79 % and folded 78 % in equal bytes; random 71 %
    speeds = {"dense": 1.0, "hashednet": 2.5, "autosample": 2.0, "folded": 2.0, "random": 9.0}
    rows = [
        {"method": name, "size": "" if name == "dense" else "8x a layer", "speedup": {"median": speed}}
        for name, speed in speeds.items()
    ]
    about = {"date": "2026-01-04", "hardware": "a processor", "torch": "0"}
    kept = tmp_path / "results/ablation/small/latency.json"
    kept.write_text(json.dumps({**about, "rows": rows}))
    head, _, line, _, note = planes().splitlines()
    assert line == (
        "| [small](../results/ablation/small/table.md) | 8.0x | `hashednet` | 81.00 ± 1.41 | 78.00 ± 1.41 | 1.00x | "
        "2.50 | 2.00 |"
    )
    assert head.count("|") == line.count("|")
    assert note.endswith("a processor, torch 0, 2026-01-04.")
    rows[1]["speedup"]["median"] = 2.0
    kept.write_text(json.dumps({**about, "rows": rows}))
    assert planes().startswith("None; sizes measured: 1.")


def test_generations_are_compared_with_the_first_of_the_same_net_and_regime(script, tmp_path):
    tables = script("doctables.methods").generations_tables
    assert tables().startswith("No records yet")
    kind = {"regime": "as they are", "loss": "ban", "taught": False}
    chains = [
        {**kind, "net": net, "seed": seed, "rows": [
            {"net": "generation 0", "accuracy": start + seed, "trained": 80.0 + seed},
            {"net": "generation 1", "accuracy": start + 2 * seed + 1},
            {"net": "ensemble of 2", "accuracy": start + 3 * seed + 2},
        ]}
        for net, start in (("dense", 50.0), ("folded", 40.0)) for seed in range(3)
    ]  # fmt: skip
    chains += [
        {**kind, "net": "folded", "taught": True, "loss": "dkpp", "rows": [{"net": "generation 1", "accuracy": 43.0}]}
    ] * 3
    chains += [{**kind, "regime": "augmented", "net": "dense", "rows": [{"net": "generation 0", "accuracy": 60.0}]}]
    about = {"command": "python measure.py", "date": "2026-01-04", "hardware": "a processor", "torch": "0"}
    kept = tmp_path / "results/methods/generations.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps({**about, "chains": chains}))
    title, first, other, second, note = tables().split("\n\n")
    head, _, *lines = first.splitlines()
    assert (title, other) == ("Images as they are, 30 epochs:", "Augmented images, 20 epochs:")
    # differences 1, 2, 3: t = 2·√3 with two degrees of freedom; 2, 4, 6 have the same
    assert lines == [
        "| dense | generation 0 | labels | 81.0 | 51.00 ± 1.00 |  | 3 |",
        "| dense | generation 1 | generation 0, `ban` |  | 53.00 ± 2.00 | +2.00 (p 0.074) | 3 |",
        "| dense | ensemble of 2 |  |  | 55.00 ± 3.00 | +4.00 (p 0.074) | 3 |",
        "| folded | generation 0 | labels | 81.0 | 41.00 ± 1.00 |  | 3 |",
        "| folded | generation 1 | generation 0, `ban` |  | 43.00 ± 2.00 | +2.00 (p 0.074) | 3 |",
        "| folded | ensemble of 2 |  |  | 45.00 ± 3.00 | +4.00 (p 0.074) | 3 |",
        "| folded | generation 1 | dense net, `dkpp` |  | 43.00 ± 0.00 | +2.00 (p 0.074) | 3 |",
    ]
    assert {line.count("|") for line in lines} == {head.count("|")}
    assert second.splitlines()[2:] == ["| dense | generation 0 | labels |  | 60.00 |  | 1 |"]
    assert note == "`python measure.py`, a processor, torch 0, 2026-01-04."


@pytest.mark.slow
def test_times_of_a_grid_are_measured_in_turn_with_the_dense_net(script, grid):
    made = grid(presets=["dense", "wsnet", {"preset": "dense", "quantize": {"bits": 4}}], seeds=1)
    record = script("measure_latency").measured(made, rounds=3)
    assert [(row["method"], row["size"]) for row in record["rows"]] == [
        ("dense", ""), ("dense 4 bits", ""), ("wsnet", "8x a layer")
    ]  # fmt: skip
    for row in record["rows"]:
        for side in (row, row["onnxruntime"]):
            ratios = [base / taken for base, taken in zip(side["dense_times_ms"], side["times_ms"], strict=True)]
            assert side["speedup"]["median"] == pytest.approx(sorted(ratios)[1], rel=1e-3)
    assert dict(record["rows"][2]["plans"])


@pytest.mark.parametrize(
    ("recorded", "shown"),
    [
        ("autosample ablate configs/ablation/mnist.yaml --threads 1", "autosample ablate ablation/mnist --threads 1"),
        ("autosample ablate autosample/configs/research/a_b.yaml", "autosample ablate research/a_b"),
        ("bash scripts/quickstart.sh", "bash scripts/quickstart.sh"),
    ],
)
def test_recorded_commands_are_shown_in_their_present_form(script, recorded, shown):
    assert script("doctables.records").present(recorded) == shown


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))], ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path):
    for link in re.findall(r"\]\((?!http)([^)\s]+)\)", path.read_text()):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if target.suffix == ".md":
            assert target.is_file(), link
            assert not anchor or anchor in anchors(target), link


def anchors(path):
    """The anchors of a document's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{stem}.md" for stem in ("results", "speed", "ablations"))])
def test_every_generated_part_of_a_document_is_known(script, name):
    """A mark without a table behind it would go stale silently."""
    marks = re.findall(r"<!-- ([\w:]+) -->", (ROOT / name).read_text())
    assert set(marks) == set(script("update_docs").PARTS[name])


def blocks(name, heading=""):
    """The blocks of Python in a document, after a heading."""
    text = (ROOT / name).read_text()
    return re.findall(r"```python\n(.*?)```", text[text.index(heading) :], re.S)


@pytest.mark.slow
def test_the_example_of_the_readme_stores_and_computes_less():
    """Plans are measured, so on another machine a layer or two may stay dense; the bytes are always the same."""
    shown = (ROOT / "README.md").read_text().split("<!-- example -->\n")[1].split("\n<!-- /example -->")[0]
    code, output = re.fullmatch(r"```python\n(.*)\n```\n\nprints\n\n```\n(.*)\n```", shown, re.S).groups()
    assert code == (ROOT / "scripts" / "example.py").read_text().rstrip()
    made = subprocess.run([sys.executable, ROOT / "scripts" / "example.py"], capture_output=True, text=True, check=True)
    assert made.stdout.splitlines()[0] == output.splitlines()[0]
    for text in (made.stdout, output):
        dense, stored, work, deployed = (int(number.replace(",", "")) for number in re.findall(r"\d[\d,]{6,}", text))
        assert work == 1_813_566_464  # of resnet18 with ten classes, by torch's own counter
        assert stored < dense / 7
        assert deployed < work / 2


@pytest.mark.slow
def test_the_verbs_of_the_readme_work(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    model = timm.create_model("test_resnet", num_classes=10).eval()
    (code,) = blocks("README.md", "## Convert, train")
    exec(code, {"autosample": autosample, "torch": torch, "model": model, "example": torch.randn(1, 3, 64, 64)})
    assert (tmp_path / "net.onnx").is_file()


@pytest.mark.slow
def test_the_page_on_python_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    def time(model, example):  # 3 ns for each number: the page's 20 ms are reached on slow machines too
        seconds = 3e-9 * sum(p.numel() for p in model.parameters())
        return Timing(seconds, seconds, seconds, 30)

    monkeypatch.setattr("autosample.budget.latency.time_deployed", time)
    monkeypatch.chdir(tmp_path)
    exec("\n".join(blocks("docs/python.md")), {})
    assert "layer4.1.conv2" in capsys.readouterr().out


@pytest.fixture
def added():
    """All that docs/adding.md adds, for the length of a test."""
    tables = (RULES, COLUMNS, PRESETS, KINDS, PLANS, FORMATS, DATASETS)
    kept = [dict(table) for table in tables]
    names: dict = {"__name__": "example"}
    exec("\n".join(blocks("docs/adding.md")), names)
    yield names
    for table, rows in zip(tables, kept, strict=True):
        table.clear()
        table.update(rows)


@pytest.mark.parametrize("preset", ["golden", "lowrank", "short-windows", {"columns": "reversed", "layout": "taps"}])
@pytest.mark.every(2)
def test_what_is_added_goes_through_every_verb(added, tmp_path, preset):
    model = timm.create_model("test_resnet", num_classes=10).eval()
    x = torch.randn(2, 3, 64, 64)
    spec = Spec(**preset) if isinstance(preset, dict) else preset
    assert len(autosample.convert_(model, spec, ratio=4).converted) > 5
    model(x).square().sum().backward()
    autosample.quantize_(model, bits=8)
    expected = model(x)
    sizes = autosample.save(model, tmp_path)
    assert sizes.stored_bytes < sizes.dense_bytes / 4
    torch.testing.assert_close(autosample.load(tmp_path)(x), expected)
    torch.testing.assert_close(
        autosample.deploy(model, x, measure=False, fuse=False)(x), expected, rtol=1e-4, atol=1e-4
    )


def test_an_added_choice_of_columns_is_the_one_it_says(added):
    layer = torch.nn.Conv1d(8, 4, 3, bias=False)
    autosample.convert_(layer, Spec(columns="reversed", layout="taps", windows=2, ratio=4))
    g, rows = layer.geometry, layer.offsets()
    for n, m, tap in [(0, 0, 0), (1, 5, 2), (3, 7, 1)]:
        window, column = divmod(m, g.columns)
        read = g.columns - 1 - column if window % 2 else column
        torch.testing.assert_close(layer.weight[n, m, tap], layer.summary[rows[n, window] + tap, read])


def test_an_added_layer_is_converted_and_an_added_data_set_is_read(added):
    layer = torch.nn.ConvTranspose3d(8, 8, 3)
    assert autosample.convert_(layer, "random", ratio=4).converted
    assert layer(torch.randn(1, 8, 4, 4, 4)).shape == (1, 8, 6, 6, 6)
    data = DATASETS["Stripes"](batch_size=16, val_fraction=0.0)
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (16, 1, 8, 8)
    assert torch.equal(x[:, :, :1] == x[:, :, 1:2], (y == 1).view(-1, 1, 1, 1).expand(-1, 1, 1, 8))


def test_an_added_plan_computes_the_same(added, monkeypatch):
    monkeypatch.setattr(added["CompiledSegments"], "cost", lambda *shape: 1.0)  # so that it is chosen
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: None)  # it takes a minute
    layer = torch.nn.Conv1d(16, 32, 8)
    autosample.convert_(layer, "wsnet", ratio=8)
    x = torch.randn(1, 16, 64)
    expected = layer(x)
    fast = autosample.deploy(layer, x, measure=False, fuse=False)
    assert fast.deployment.rows[0].plan.kind == "compiled"
    torch.testing.assert_close(fast(x), expected, rtol=1e-4, atol=1e-4)


def test_an_added_format_is_written_and_checked(added, tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()).eval()
    autosample.convert_(model, "random", ratio=4)
    written = write_model(FORMATS["pt2-core"], model, tmp_path / "a.pt2", torch.randn(2, 64))
    assert written.bytes == (tmp_path / "a.pt2").stat().st_size
    assert written.error < 1e-4
