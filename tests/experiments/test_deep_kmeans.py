"""Cells that cluster a dense net, trained with a penalty or without, and do not train on."""

import pytest
import torch

from autosample.errors import ConfigError
from autosample.experiments import run, teacher
from autosample.experiments.parse import read_grid

WARM = {"teacher_epochs": 1, "warm_start": True, "epochs": 0}
PENALTY = {"strength": 5.0, "form": "indicator", "ratio": 64, "include": ["stages.1.conv"]}


def test_a_net_is_clustered_and_measured_as_it_is(grid):
    taught = [
        {"preset": "kmeans", "label": "plain", "train": WARM},
        {"preset": "kmeans", "label": "penalty", "train": {**WARM, "cluster_penalty": PENALTY}},
    ]
    model = {"name": "digitnet", "num_classes": 10, "in_chans": 1, "include": ["stages.1.conv"]}
    weights, errors = [], []
    for cell in grid(presets=taught, model=model, ratios=[64], seeds=1).cells:
        teacher._WEIGHTS.clear()
        data = run.make_data(cell.data, cell.data_args, seed=0, fold=None, holdout=0.0)
        with teacher.dense_weights(cell, data) as given:
            settings, options = teacher.arguments(cell, run.replace(run.resolve(cell).recipe, **given))
            net, record = run.train(data, settings, **options)
        dense = next(iter(teacher._WEIGHTS.values()))
        weights.append(dense["stages.1.conv.weight"])
        layer = net.net.get_submodule("stages.1.conv")
        errors.append(float((layer.weight.detach() - weights[-1]).norm() / weights[-1].norm()))
        assert layer.fit_error == pytest.approx(errors[-1], rel=1e-4)  # nothing has trained since
        assert 0 < record.coded_bytes <= record.stored_bytes
        assert 0 < record.accuracy < 1
    assert not torch.equal(*weights)
    assert errors[1] < errors[0]


def test_a_dense_row_is_what_the_others_of_its_seed_start_from(grid, monkeypatch):
    presets = ["dense", {"preset": "kmeans", "train": WARM}]
    model = {"name": "digitnet", "num_classes": 10, "in_chans": 1, "include": ["stages.1.conv"]}
    dense, small = grid(presets=presets, model=model, ratios=[64], seeds=1, train={"epochs": 1}).cells
    teacher._WEIGHTS.clear()
    run.run_cell(dense)
    kept = dict(teacher._WEIGHTS)
    teacher._WEIGHTS.clear()
    run.run_cell(small)
    (name,) = teacher._WEIGHTS
    assert kept.keys() == {name}
    for key, value in kept[name].items():
        assert torch.equal(teacher._WEIGHTS[name][key], value), key
    # so nothing trains where both run
    monkeypatch.setattr(teacher, "trainer_for", None)
    run.run_cell(small)
    # nets of another seed are forgotten
    monkeypatch.undo()
    run.run_cell(run.replace(dense, seed=1))
    assert len(teacher._WEIGHTS) == 1
    assert name not in teacher._WEIGHTS


def test_the_penalty_needs_a_dense_net(grid):
    with pytest.raises(ConfigError, match="kmeans needs a trained dense net"):
        grid(presets=[{"preset": "kmeans", "train": {"cluster_penalty": 1e-4}}])


def test_the_bundled_grid():
    grid = read_grid("ablation/deep_kmeans_cifar10")
    assert len(grid.cells) == 3 * (1 + 6 * 3)
    assert {cell.recipe.model for cell in grid.cells} == {"wrn16_4"}
