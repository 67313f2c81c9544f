"""Budgets of multiplications, and counts of operations, against closed forms."""

import pytest
import timm
import torch
from torch import nn

import autosample
import autosample.models
from autosample.errors import ConfigError, NothingToConvert, SpecError
from autosample.nn import compressed_layers

X = torch.randn(1, 1, 16, 16)


def digitnet():
    torch.manual_seed(0)
    return timm.create_model("digitnet", num_classes=10)


def products(model, x=X) -> dict[str, int]:
    """Multiplications by layer: `r` for each patch of each output map, counted by hooks on the outputs."""
    counts = {}

    def count(name):
        def hook(layer, args, out):
            places = [-(-n // layer.patches.patch) for n in out.shape[2:]]
            counts[name] = layer.products * len(out) * torch.Size(places).numel()

        return hook

    handles = [layer.register_forward_hook(count(n)) for n, layer in compressed_layers(model).items()]
    model.eval()(x)
    for handle in handles:
        handle.remove()
    return counts


@pytest.mark.parametrize("options", [{"products": 1}, {"products": 0.75}, {"products": 2, "patch": 2}])
def test_multiplications_are_those_of_the_formula(options):
    model = digitnet()
    autosample.convert_(model, "strassen", options=options)
    assert all(
        layer.products == round(options["products"] * layer.out_channels) for layer in compressed_layers(model).values()
    )
    result, expected = autosample.report(model, X), products(model)
    rows = {row.name: row for row in result.rows}
    assert {name: rows[name].multiplications for name in expected} == expected
    dense = autosample.report(digitnet(), X)
    assert result.macs == dense.macs == dense.multiplications == dense.additions
    others = sum(row.macs for row in dense.rows if row.name not in expected)
    assert result.multiplications == sum(expected.values()) + others
    # reduction c_in·c_out·k²·p²/r, where patches cover the map exactly
    for name, layer in compressed_layers(model).items():
        p = options.get("patch", 1)
        reduction = layer.in_channels * layer.out_channels * 9 * p**2 / layer.products
        assert rows[name].macs / rows[name].multiplications == pytest.approx(reduction)


def test_additions_are_the_entries_that_are_not_zero():
    model, x = nn.Conv2d(4, 8, 3, padding=1), torch.randn(2, 4, 6, 6)
    autosample.convert_(model, "strassen", options={"products": 1, "patch": 2})
    autosample.harden_(model)
    row = autosample.report(model, x).rows[0]
    used = int(model.entries("gather").abs().sum() + model.entries("spread").abs().sum())
    assert row.additions == 2 * 3 * 3 * used
    most = 2 * 3 * 3 * model.products * (4 * (2 - 1 + 3) ** 2 + 8 * 2**2)
    assert 0.2 * most < row.additions < most


def test_folded_layers_add_more_than_they_multiply():
    model, x = nn.Conv2d(64, 64, 3, padding=1), torch.randn(1, 64, 8, 8)
    autosample.convert_(model, "folded", options={"blocks": 4}, ratio=4)
    folds, row = model.folds, autosample.report(model, x).rows[0]
    assert row.macs == 64 * 64 * 9 * 64
    assert row.multiplications == 64 * folds.columns * 9 * 64
    assert row.additions == row.multiplications + 64 * folds.blocks * folds.columns * (folds.windows - 1)
    assert row.multiplications == row.macs // 4


# the poster's figures for 224×224: products per output channel, patch, multiplications, additions, and whether the
# classifier's multiplications are among them
POSTER = [
    (0.5, 1, 3.73e6, 1.06e9, False),
    (1, 1, 4.97e6, 2.11e9, False),
    (2, 1, 7.97e6, 4.22e9, True),
    (1, 2, 3.11e6, 1.18e9, False),
    (2, 2, 4.24e6, 2.36e9, True),
    (6, 2, 6.72e6, 7.06e9, True),
]
OUTPUTS = 2_483_712  # of the 20 convolutions; each is multiplied once more by its norm


def resnet18():
    with torch.device("meta"):
        return timm.create_model("resnet18").eval(), torch.empty(1, 3, 224, 224)


def test_resnet_18_multiplies_as_often_as_the_paper_counts():
    model, x = resnet18()
    assert autosample.report(model, x).multiplications + OUTPUTS == pytest.approx(1.8166e9, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("products", "patch", "multiplications", "additions", "classifier"), POSTER)
def test_sum_products_of_resnet_18_are_those_of_the_poster(products, patch, multiplications, additions, classifier):
    model, x = resnet18()
    options = {"products": products, "patch": patch}
    autosample.convert_(model, "strassen", include=["Conv2d"], overrides={"conv1": {}}, options=options)
    rows = [row for row in autosample.report(model, x).rows if row.kind == "SumProductConv2d"]
    assert len(rows) == 20
    found = sum(row.multiplications for row in rows)
    if patch == 1:
        assert found == products * OUTPUTS
    # maps of 7×7 have patches that are half outside
    assert found + OUTPUTS + 512_000 * classifier == pytest.approx(multiplications, rel=1e-2)
    # all entries count, as none has a value yet; the poster takes windows of p − 1 + k taps for any stride
    entries = [(m.in_channels, m.kernel_size[0], m.out_channels) for m in (model.get_submodule(r.name) for r in rows)]
    each = [c * (patch - 1 + k) ** 2 + n * patch**2 for c, k, n in entries]
    assert sum(row.multiplications * e for row, e in zip(rows, each, strict=True)) == pytest.approx(additions, rel=2e-2)
    assert sum(row.additions for row in rows) == pytest.approx(additions, rel=2e-2 if patch == 1 else 0.1)


# --- budgets ----------------------------------------------------------------------------------------------------------


PATCHES = {"preset": "strassen", "options": {"patch": 2}}


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["strassen", PATCHES, "folded"])
def test_a_budget_of_multiplications_is_met(spec):
    model, asked = digitnet(), 150_000 if spec == "strassen" else 3_000_000 if spec == "folded" else 100_000
    result = autosample.convert_(model, spec, multiplications=asked, example=X)
    found = result.budget
    assert (
        (0.8 if spec == "folded" else 0.98) * asked
        < autosample.report(model, X).multiplications
        == found.reached
        <= asked
    )
    assert f"asked for {asked:,} multiplications, reached {found.reached:,.0f} with" in str(result)
    more = {"options": {"products": 1.05 * found.products}} if found.products else {"ratio": found.ratio / 1.05}
    other = digitnet()
    autosample.convert_(other, autosample.spec(spec, **more))
    assert autosample.report(other, X).multiplications > asked


def test_sizes_of_sum_product_layers_exclude_each_other():
    for options, kind, said in (
        ({"ratio": 4, "options": {"products": 1}}, SpecError, "pass either ratio (4) or the option products"),
        (
            {"bytes": 5e4, "options": {"products": 1}},
            ConfigError,
            "exclude each other, got products=1 and bytes=50000.0",
        ),
        (
            {"multiplications": 5e5, "example": X, "options": {"products": 1}},
            ConfigError,
            "exclude each other, got products=1 and multiplications=500000.0",
        ),
        ({"multiplications": 5e5, "bytes": 5e4}, ConfigError, "exclude each other, got bytes=50000.0 and multiplic"),
        ({"multiplications": 5e5}, ConfigError, "multiplications need an example to count with, got none"),
        ({"multiplications": 0.75, "example": X}, ConfigError, 'more, or set options={"products": 1}, which counts'),
        ({"multiplications": 1e12, "example": X}, NothingToConvert, "of the dense model, got 1,000,000,000,000"),
        ({}, SpecError, "rule strassen needs a size, got none"),
    ):
        with pytest.raises(kind) as error:
            autosample.convert_(digitnet(), "strassen", **options)
        assert said in str(error.value)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) <= 300


@pytest.mark.slow
@pytest.mark.parametrize("share", [4, 10, 16])
def test_bytes_and_ratios_are_met(share):
    target = autosample.report(digitnet()).stored_bytes // share
    model = digitnet()
    result = autosample.convert_(model, "strassen", bytes=target)
    assert 0.97 * target < result.stored_bytes <= target
    model = digitnet()
    rows = autosample.convert_(model, "strassen", ratio=share).converted
    assert sum(r.dense_params for r in rows) / sum(r.stored_params for r in rows) == pytest.approx(share, rel=0.03)


def test_other_layers_stay_dense_for_a_reason():
    class Own(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) + 1

    model = nn.Sequential(nn.Conv2d(8, 16, 3), Own(8, 16, 3), nn.ConvTranspose2d(8, 16, 3), nn.Conv3d(8, 16, 3))
    notes = {row.name: row.note for row in autosample.convert_(model, "strassen", options={"products": 1}).rows}
    assert notes["0"] == "16 products"
    assert notes["1"] == "Own has its own forward pass"
    assert notes["2"] == notes["3"] == "sum-product layers are convolutions along signals and images, and linear layers"
