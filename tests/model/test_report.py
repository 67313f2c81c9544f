"""Reports against what they are about: the bytes of a file, multiply-adds counted otherwise, tables read back."""

import csv
import io
import json
import math
import re
import xml.etree.ElementTree
from collections import Counter

import pytest
import safetensors.torch
import torch
from every_spec import PRESETS_WITH_WEIGHT
from rich.console import Console
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autosample import PRESETS, convert, convert_, harden_, report
from autosample.artifact import compact_state
from autosample.errors import ConversionError
from autosample.model.report import Row, save_report
from autosample.nn import compressed_layers


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(4, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.conv2 = nn.Conv2d(24, 24, 3, bias=False)
        self.conv3 = nn.Conv1d(24, 30, 5)
        self.depthwise = nn.Conv1d(30, 30, 3, groups=30)
        self.head = nn.Linear(30, 10)
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("passing", torch.ones(1000), persistent=False)

    def forward(self, x):
        x = self.conv2(self.norm(self.conv1(x))).relu().flatten(2)
        return self.head(self.depthwise(self.conv3(x)).mean(2)) * self.scale


class Shared(nn.Module):
    """A module under two names, a weight of two modules, and a bias of two."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(32, 32)
        self.again = self.first
        self.table, self.tied = nn.Embedding(50, 32), nn.Linear(32, 50)
        self.tied.weight = self.table.weight
        self.other = nn.Linear(32, 32)
        self.other.bias = self.first.bias

    def forward(self, x):
        return self.tied(self.other(self.again(self.first(x))))


def image():
    return torch.randn(2, 4, 8, 8)


def payload(model) -> int:
    """Bytes of a safetensors file without its header: a little-endian length, then JSON padded to 8 bytes."""
    data = safetensors.torch.save(compact_state(model))
    return len(data) - 8 - int.from_bytes(data[:8], "little")


def row(result, name) -> Row:
    return next(r for r in result.rows if r.name == name)


VARIANTS = {
    "plain": {},
    "everything": {"signs": "random", "columns": "shuffle"},
    "table of columns": {"columns": "table"},
    "grid": {"grid": 2},
}


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("make", [Net, Shared])
@pytest.mark.every(3)
def test_stored_bytes_are_the_bytes_of_a_file(make, preset, variant):
    model, result = convert(make(), preset, ratio=3, **VARIANTS[variant])
    assert result.stored_bytes == payload(model) == report(model).stored_bytes
    if preset == "dense":
        return
    # offsets take no more and no less when they have become integers
    harden_(model)
    assert report(model).stored_bytes == payload(model) == result.stored_bytes
    assert result.ratio == result.dense_bytes / payload(model) > 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("preset", ["wsnet", "autosample", "kmeans"])
def test_bytes_in_other_precisions(preset, dtype):
    dense = Net().to(dtype)
    size = report(dense).stored_bytes
    model, result = convert(dense, preset, ratio=3)
    assert result.stored_bytes == payload(model)
    assert result.dense_bytes == size == payload(dense)


@pytest.mark.parametrize("make", [Net, Shared])
def test_a_dense_model_weighs_its_state(make):
    model = make()
    tensors = {id(t): t for t in model.state_dict(keep_vars=True).values()}.values()
    result = report(model)
    assert result.dense_bytes == result.stored_bytes == sum(t.nbytes for t in tensors) == payload(model)
    assert result.dense_params == result.stored_params == sum(t.numel() for t in tensors)
    assert (result.ratio, result.converted, result.macs) == (1, (), None)
    assert result.total().multiplicity == 1
    # converted, it still knows what it was
    assert convert(model, "autosample", ratio=3)[1].dense_bytes == result.dense_bytes


def test_wsnet_in_closed_form():
    """`L = K + (N − 1)·⌈K / S⌉` rows of `M / C` columns; every filter reads `G = C` windows of each."""
    model = nn.Conv1d(64, 128, 8)
    result = convert_(model, "wsnet", options={"spatial": 8, "channel": 8})
    stored = (8 + 127) * 8
    assert result.rows[0] == Row(
        name="",
        kind="SummaryConv1d",
        method="wsnet",
        note="",
        dense_params=128 * 64 * 8 + 128,
        stored_params=stored + 128,
        dense_bytes=4 * (128 * 64 * 8 + 128),
        stored_bytes=4 * (stored + 128),
        ratio=128 * 64 * 8 / stored,
        position_bits=0,
        multiplicity=128 * 64 * 8 / stored,
        coded_bytes=4 * (stored + 128),
    )


def test_learned_offsets_in_closed_form():
    """`N·G` offsets of `⌈log2(L − K + 1)⌉` bits, packed."""
    model = nn.Conv2d(32, 64, 3, bias=False)
    result = convert_(model, "autosample", ratio=8, windows=4, options={"afford": 0.1})
    rows, columns = model.summary.shape
    assert columns == 8
    bits = 64 * 4 * math.ceil(math.log2(rows - 9 + 1))
    stored = rows * 8
    first = result.rows[0]
    assert (first.position_bits, first.stored_params) == (bits, stored)
    assert first.stored_bytes == 4 * stored + math.ceil(bits / 8)
    assert first.ratio == 64 * 32 * 9 / stored == pytest.approx(8, rel=0.02)
    assert first.multiplicity == 64 * 32 * 9 / stored


def test_denser_sampling_counts_its_mixing_matrix():
    model = nn.Conv1d(64, 32, 16, bias=False)
    first = convert_(model, "wsnet", ratio=8, denser=2).rows[0]
    assert model.densify.shape == (32, 64)
    assert first.stored_params == model.summary.numel() + 32 * 64
    assert first.dense_params == 32 * 64 * 16


def test_a_ratio_that_is_out_of_reach_is_told():
    model = nn.Sequential(nn.Linear(16, 64), nn.Linear(64, 64))
    result = convert_(model, "random", ratio=500, windows=1)
    most = 64 * 16 / 17  # a window and one row more
    assert row(result, "0").note == f"asked 500x, the layer allows {most:.3g}x"
    assert row(result, "0").ratio == pytest.approx(most)


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("preset", PRESETS_WITH_WEIGHT)
@pytest.mark.every(3)
def test_multiply_adds_are_those_of_the_dense_layer(preset, variant):
    dense, x = Net().eval(), image()
    with FlopCounterMode(display=False) as counter:
        dense(x)
    model = convert(dense, preset, ratio=3, **VARIANTS[variant])[0].train()
    modes = [m.training for m in model.modules()]
    result = report(model, x)
    assert [m.training for m in model.modules()] == modes
    assert result.macs == counter.get_total_flops() // 2
    closed = {
        "conv1": 2 * 8 * 8 * 24 * 4 * 9,
        "conv2": 2 * 6 * 6 * 24 * 24 * 9,
        "conv3": 2 * 32 * 30 * 24 * 5,
        "depthwise": 2 * 30 * 30 * 3,
        "head": 2 * 30 * 10,
        "(rest)": 0,
    }
    assert {r.name: r.macs for r in result.rows} == closed
    # no trace of counting is left
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_multiply_adds_leave_out_how_weights_are_made():
    """Mixing matrices are matrix products; a layer called twice makes its weight twice."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.query = nn.Conv1d(32, 32, 9, padding=4), nn.Parameter(torch.randn(32, 32))

        def forward(self, x):
            return self.query @ self.conv(self.conv(x))

    dense, x = Twice(), torch.randn(1, 32, 20)
    model, _ = convert(dense, "wsnet", ratio=8, denser=2)
    assert model.conv.densify is not None
    result = report(model, x)
    assert row(result, "conv").macs == 2 * 20 * 32 * 32 * 9
    assert row(result, "(rest)").macs == 32 * 32 * 20
    assert result.macs == report(dense, x).macs


def test_examples_of_several_inputs_and_layers_that_are_not_called():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, a, b):
            return self.used(a) + b

    result = report(Two(), (torch.zeros(3, 8), torch.zeros(3, 4)))
    assert (row(result, "used").macs, row(result, "idle").macs, result.macs) == (3 * 8 * 4, None, 3 * 8 * 4)


def test_the_example_changes_nothing():
    model = Net()
    convert_(model, "nes", ratio=3)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    report(model, image())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    with pytest.raises(ConversionError, match=r"an input of the model, got shape \(2, 5, 8, 8\) .* batch first"):
        report(model, torch.randn(2, 5, 8, 8))
    assert model.training
    assert not model.conv1._forward_hooks


# --- totals and tables ----------------------------------------------------------------------------------------------


@pytest.fixture(params=["converted", "dense", "single"])
def result(request):
    if request.param == "single":
        layer = nn.Linear(64, 32)
        convert_(layer, "autosample", ratio=4, warm_start=True)
        return report(layer, torch.zeros(2, 64))
    model = Net()
    if request.param == "converted":
        convert_(model, "autosample", ratio=3, exclude=["re:conv[23]|nothing"], warm_start=True)
    return report(model, image())


def test_the_total_adds_up(result):
    total = result.total()
    for name in ("dense_params", "stored_params", "dense_bytes", "stored_bytes", "position_bits", "macs"):
        added = sum(getattr(r, name) or 0 for r in result.rows)
        assert getattr(total, name) == added
        if hasattr(result, name):
            assert getattr(result, name) == added
    assert total.ratio == result.ratio == total.dense_bytes / total.stored_bytes
    assert total.note == f"{len(result.converted)} of {len(result.rows) - 1} layers compressed"


def test_json(result):
    data = json.loads(result.to_json())
    assert data == result.to_dict()
    assert tuple(Row(**r) for r in data["rows"]) == result.rows
    assert Row(**data["total"]) == result.total()


def test_csv(result):
    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    for read, made in zip(rows, (*result.rows, result.total()), strict=True):
        for name, value in read.items():
            expected = getattr(made, name)
            assert (None if value == "" and expected is None else type(expected)(value)) == expected


def test_markdown(result):
    head, rule, *lines = result.to_markdown().splitlines()
    names = [cell.strip() for cell in head.strip("|").split("|")]
    assert len(rule.strip("|").split("|")) == len(names)
    for line, made in zip(lines, (*result.rows, result.total()), strict=True):
        cells = [cell.strip() for cell in line.replace(r"\|", "\0").strip("|").split("|")]
        read = dict(zip(names, cells, strict=True))
        assert read["layer"] == (made.name or "(itself)")
        assert int(read["weights"].replace(",", "")) == made.dense_params
        assert int(read["stored"].replace(",", "")) == made.stored_params
        assert int(read["bytes"].replace(",", "")) == made.stored_bytes
        assert float(read["ratio"]) == pytest.approx(made.ratio, abs=0.005)
        assert read["MACs"] == ("" if made.macs is None else f"{made.macs:,}")
        assert read["note"].replace("\0", "|") == made.note


def test_printing(result, capsys):
    text = str(result)
    for r in (*result.rows, result.total()):
        assert (r.name or "(itself)") in text
        assert f"{r.stored_bytes:,}" in text
    for r in result.rows:
        assert r.note in text  # a pattern with brackets is no markup
    Console(width=140).print(result)
    assert "layers compressed" in capsys.readouterr().out
    assert repr(result).startswith(f"<Report: {len(result.converted)} of ")
    assert len(repr(result)) < 120
    page = xml.etree.ElementTree.fromstring(result._repr_html_().partition("<p>")[0])  # for notebooks
    assert [row[0].text for row in page][1:] == [*(r.name or "(itself)" for r in result.rows), "total"]


@pytest.mark.parametrize(
    ("options", "asked", "dense"),
    [({"ratio": 1e9}, "1e+09", 0), ({"ratio": 64}, "64", 1), ({"ratio": 4, "spec": "kmeans"}, "4", 0)],
)
def test_a_ratio_that_is_missed_is_told(options, asked, dense):
    model = nn.Sequential(nn.Conv2d(32, 64, 3), nn.Conv2d(16, 16, 3), nn.Linear(*((2, 1) if dense else (10, 10))))
    with pytest.warns(UserWarning, match="a ratio of .* was asked for and .* is reached, offsets included") as seen:
        made = convert_(model, **{"spec": "random", "share": "even", **options}, exclude=["0"])
    told = str(seen[0].message)
    assert told.startswith(f"a ratio of {asked} ")
    assert ("as 1 of 2 layers stay dense" in told) == bool(dense)
    reached = float(re.search(r"and ([\d.]+) is", told)[1])
    weights = 16 * 16 * 9 + (2 if dense else 100)
    stored = (
        sum(r.stored_bytes for r in made.rows if r.name in "12") / 4 - 16 - model[2].out_features
    )  # without the biases
    assert reached == pytest.approx(weights / stored, rel=0.02)


def test_notes_may_hold_what_looks_like_markup():
    model = Net()
    result = convert_(model, "wsnet", ratio=3, exclude=["re:conv[12]|[/]"])
    assert "excluded by 're:conv[12]|[/]'" in str(result)


def test_files(result, tmp_path):
    save_report(result, tmp_path)
    assert Counter(p.name for p in tmp_path.iterdir()) == Counter(["report.json", "report.csv", "report.md"])
    assert (tmp_path / "report.json").read_text() == result.to_json()
    assert (tmp_path / "report.csv").read_text() == result.to_csv()
    assert (tmp_path / "report.md").read_text() == result.to_markdown()


# --- what a file holds ----------------------------------------------------------------------------------------------


def test_names_of_what_is_stored():
    model = Net()
    learned = {"share": "even", "options": {"afford": 10}, "signs": "random"}
    convert_(model, "autosample", ratio=3, include=["conv2", "head"], **learned)
    state = compact_state(model)
    stored = {name.removeprefix("conv2.") for name in state if name.startswith("conv2.")}
    assert stored == {"summary", "sign_seed", "offsets.table"}
    assert {name for name in state if name.startswith("head.")} == {f"head.{name}" for name in (*stored, "bias")}
    assert not any(name.startswith("passing") for name in state)
    untouched = {name for name in model.state_dict() if not name.startswith(("conv2", "head"))}
    assert untouched <= set(state)


def test_shared_tensors_are_stored_once_under_their_first_name():
    state = compact_state(Shared())
    assert set(state) == {"first.weight", "first.bias", "table.weight", "tied.bias", "other.weight"}


def test_layers_inside_of_layers_count_for_themselves():
    class Adapted(nn.Linear):
        def __init__(self):
            super().__init__(32, 32)
            self.down, self.norm = nn.Linear(32, 2, bias=False), nn.LayerNorm(32)

        def forward(self, x):
            return super().forward(self.norm(x)) + self.down(x).repeat(1, 16)

    model = nn.Sequential(Adapted())
    dense = report(model)
    sizes = {"0": 4 * (32 * 32 + 32 + 64), "0.down": 4 * 64, "(rest)": 0}
    assert {r.name: r.stored_bytes for r in dense.rows} == sizes
    result = convert_(model, "random", ratio=4, exclude=["0.down"])
    assert set(compressed_layers(model)) == {"0"}
    assert result.dense_bytes == dense.dense_bytes
    assert result.stored_bytes == payload(model)
    assert row(result, "0").stored_bytes == 4 * (32 * 32 // 4 + 32 + 64) + 8


def test_models_without_layers():
    result = report(nn.BatchNorm1d(8))
    assert [r.name for r in result.rows] == ["(rest)"]
    assert result.stored_bytes == 4 * 4 * 8 + 8
    assert report(nn.Identity()).ratio == 1
