"""Learned choices among neighbours of a start: a file holds which neighbour, at the bits that takes."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

import autosample
from autosample import spec
from autosample.errors import ArtifactError
from autosample.models import create
from autosample.nn import SummaryConv1d, compressed_layers
from autosample.sampling import RULES, Lattice, settle
from autosample.sampling.rules import NearOffsets, TableOffsets

CATEGORICAL = RULES["categorical"]


def trained(start="random", candidates=8, lattice=None, seed=5):
    """A rule whose scores have moved."""
    rule = CATEGORICAL(
        lattice or Lattice(40, 3, 900, 1), CATEGORICAL.Options(start=start, candidates=candidates), seed=seed
    )
    with torch.no_grad():
        rule.logits.normal_()
    return rule


@pytest.mark.parametrize("grid", [1, 4])
@pytest.mark.parametrize("start", ["random", "strided"])
@pytest.mark.parametrize(("candidates", "bits"), [(8, 3), (5, 3), (2, 1), (16, 4)])
def test_a_choice_takes_its_bits_and_no_more(start, candidates, bits, grid):
    lattice = Lattice(40, 3, 900 // grid * grid, grid)
    rule = trained(start, candidates, lattice)
    hard = rule.hardened()
    assert isinstance(hard, NearOffsets)
    seed = 64 if start == "random" else 0
    assert rule.stored_bits() == hard.stored_bits() == 40 * 3 * bits + seed
    packed = hard.packed()
    assert sum(t.nbytes for t in packed.values()) == math.ceil(40 * 3 * bits / 8) + seed // 8
    assert {name: t.tolist() for name, t in rule.packed().items()} == {name: t.tolist() for name, t in packed.items()}
    begin = lattice.random(5) if start == "random" else lattice.strided()
    for n in range(40):
        for g in range(3):
            first = min(max(int(begin[n, g]) // grid - candidates // 2, 0), lattice.choices - candidates)
            best = max(range(candidates), key=lambda c, n=n, g=g: float(rule.logits[n, g, c].detach()))
            assert int(hard()[n, g]) == (first + best) * grid
    read = CATEGORICAL(lattice, rule.options, seed=99).to("meta").restored(packed)
    assert torch.equal(read(), hard())
    assert torch.equal(read.hardened()(), rule())


def test_a_table_is_kept_where_it_is_smaller_or_a_warm_start_has_moved_windows():
    few = trained(lattice=Lattice(4, 1, 15, 1))  # 4 bits for each of four windows, against 3 and a seed
    assert isinstance(few.hardened(), TableOffsets)
    assert few.stored_bits() == 16
    assert not few.near
    moved = trained()
    moved.assign(torch.randint(0, 901, (40, 3)))
    assert moved.stored_bits() == 40 * 3 * 10
    assert torch.equal(moved.hardened()(), moved())
    assert torch.equal(CATEGORICAL(moved.lattice, moved.options).restored(moved.packed())(), moved())


def net(**options):
    torch.manual_seed(0)
    model = create("digitnet", num_classes=10).eval()
    autosample.convert_(model, "categorical", ratio=4, options={"start": "random", **options})
    with torch.no_grad():
        for layer in compressed_layers(model).values():
            layer.offsets.logits.normal_()
    return autosample.harden_(model)


@pytest.mark.parametrize("start", ["random", "strided"])
def test_saved_models_hold_choices_as_reports_say(tmp_path, start):
    model, x = net(start=start), torch.randn(2, 1, 16, 16)
    autosample.save(model, tmp_path / "first")
    file = load_file(tmp_path / "first" / "model.safetensors")
    rows = {row.name: row.position_bits for row in autosample.report(model).rows}
    for name, layer in compressed_layers(model).items():
        g = layer.geometry
        own = {key: t for key, t in file.items() if key.startswith(f"{name}.offsets.")}
        assert rows[name] == g.sampled * g.windows * 3 + (64 if start == "random" else 0)
        assert sum(t.nbytes for t in own.values()) == math.ceil(rows[name] / 8)
    read = autosample.load(tmp_path / "first")
    assert torch.equal(read(x), model(x))
    autosample.save(read, tmp_path / "again")
    assert torch.equal(autosample.load(tmp_path / "again")(x), model(x))


def test_a_file_with_a_choice_that_does_not_exist_is_refused(tmp_path):
    autosample.save(net(candidates=5), tmp_path)
    path = tmp_path / "model.safetensors"
    file = load_file(path)
    name = next(key for key in file if key.endswith("offsets.choice"))
    file[name] = torch.full_like(file[name], 255)
    save_file(file, path)
    with pytest.raises(ArtifactError, match=r"must be below 5|checksum|SHA|digest"):
        autosample.load(tmp_path)


def test_what_layers_can_afford_counts_these_bits():
    """10 bits an offset would be too many here, 3 are not."""
    chosen = spec("categorical", ratio=8, layout="flat", windows=8, options={"afford": 0.04})
    shape = (256, 512)
    assert settle(chosen, shape).rule == "categorical"
    assert settle(chosen.replace(rule="interpolated"), shape).rule == "random"
    assert settle(chosen.replace(options={"afford": 0.01}), shape).rule == "random"


def test_layers_with_choices_can_be_copied_and_averaged():
    layer = SummaryConv1d(8, 16, 9, spec="categorical", ratio=4, options={"start": "random"}).eval()
    layer.harden_()
    twin = SummaryConv1d(8, 16, 9, spec="categorical", ratio=4, options={"start": "random"}).eval()
    twin.harden_()
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(twin.weight, layer.weight)
