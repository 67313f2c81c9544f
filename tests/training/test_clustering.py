"""The penalty of Deep k-Means in trainings."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from sklearn.cluster import KMeans
from test_resume import Stop

from autosample import convert
from autosample.errors import ConfigError
from autosample.training import ClusterPenalty

LAYERS = ["stages.1.conv", "stages.2.conv"]


class Spy(pl.Callback):
    """The weight and the gradient of a layer in each step."""

    def __init__(self, name):
        self.name, self.seen = name, []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        weight = pl_module.net.get_submodule(self.name).weight
        self.seen.append((weight.detach().clone(), weight.grad.clone()))


def rows(weight):
    return weight.double().numpy().reshape(-1, weight.shape[-1])


def spied(classifier, digits, trainer, penalty, **options):
    before, after = Spy("stages.1.conv"), Spy("stages.1.conv")
    module = classifier(spec="dense", ratio=None)
    trainer(callbacks=[before, penalty, after], **options).fit(module, datamodule=digits())
    return [
        (rows(w), (rows(g1) - rows(g0)) / penalty.strength)
        for (w, g0), (_, g1) in zip(before.seen, after.seen, strict=True)
    ]


def test_the_gradient_is_that_of_the_paper(classifier, digits, trainer):
    """`λ·W(I − F·Fᵀ)` by numpy, with an F from the first step of every second epoch."""
    steps = spied(classifier, digits, trainer, ClusterPenalty(100.0, every=2), max_epochs=3)
    assert len(steps) == 9
    for step, (x, added) in enumerate(steps):
        if step in (0, 6):  # the rank trap: nothing is added with a fresh F
            f = np.linalg.svd(x, full_matrices=False)[0]
            assert np.abs(added).max() < 1e-5
        np.testing.assert_allclose(added, x - f @ (f.T @ x), atol=1e-5)
    assert max(np.abs(added).max() for _, added in steps) > 1e-3


def test_the_indicator_form_draws_rows_to_their_means(classifier, digits, trainer):
    penalty = ClusterPenalty(100.0, "indicator", ratio=64, start=0.5, include=["stages.1.conv"])
    steps = spied(classifier, digits, trainer, penalty, max_epochs=2)
    assert all(not added.any() for _, added in steps[:3])
    count, x = penalty._layers["stages.1.conv"][1].choices, steps[3][0]
    error = ((steps[3][1]) ** 2).sum()
    assert 0 < error <= 1.1 * KMeans(count, n_init=1, random_state=0).fit(x).inertia_
    # the same clusters in the next step, with the means that rows have then
    means = {tuple(np.round(c, 4)) for c in x - steps[3][1]}
    assert len(means) == count
    together = np.unique(np.round(x - steps[3][1], 4), axis=0, return_inverse=True)[1]
    x, added = steps[4]
    for label in range(count):
        np.testing.assert_allclose(added[together == label].mean(0), 0, atol=1e-5)


def test_a_net_trained_with_the_penalty_clusters_with_less_error(classifier, digits, trainer):
    errors = {}
    for strength in (0.0, 1.0):
        torch.manual_seed(0)
        given = {"strength": strength, "form": "indicator", "every": 2, "ratio": 64, "include": LAYERS}
        module = classifier(spec="dense", ratio=None, cluster_penalty=given if strength else 0.0)
        run = trainer(max_epochs=4, limit_train_batches=10)
        run.fit(module, datamodule=digits())
        assert ("train/cluster_penalty" in run.callback_metrics) == (strength > 0)
        _, report = convert(module.net, "kmeans", ratio=64, include=LAYERS, warm_start=True)
        errors[strength] = max(row.fit_error for row in report.converted)
    assert errors[1.0] < 0.7 * errors[0.0]


@pytest.mark.parametrize("form", ["indicator", pytest.param("spectral", marks=pytest.mark.slow)])
def test_resuming_is_bit_equal(classifier, digits, trainer, tmp_path, form):
    """With projections that are older than the break."""
    given = {"strength": 0.1, "form": form, "every": 3, "ratio": 64, "include": LAYERS}
    options = {"spec": "dense", "ratio": None, "cluster_penalty": given}

    def fit(start, *callbacks, path=None):
        module = classifier(**options)
        if start:
            module.load_state_dict(start)
        keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        run = trainer(max_epochs=4, enable_checkpointing=True, callbacks=[keep, *callbacks])
        run.fit(module, datamodule=digits(), ckpt_path=path)
        return module.state_dict()

    start = {name: tensor.clone() for name, tensor in classifier(**options).state_dict().items()}
    straight = fit(start)
    fit(start, Stop())
    torch.manual_seed(99)
    second = fit(None, path=tmp_path / "epoch=1.ckpt")
    assert all(torch.equal(tensor, straight[name]) for name, tensor in second.items())


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"strength": -1.0}, "strength > 0"),
        ({"form": "indicated"}, 'did you mean "indicator"'),
        ({"strenght": 1.0}, "strenght"),
        ({"spec": "wsnet"}, "codebook, got wsnet"),
    ],
)
def test_mistakes(classifier, given, text):
    with pytest.raises(ConfigError, match=text):
        classifier(spec="dense", ratio=None, cluster_penalty=given)


def test_a_converted_net_is_refused(classifier, digits, trainer):
    with pytest.raises(ConfigError, match="dense net, got spec kmeans"):
        classifier(spec="kmeans", cluster_penalty=1e-4)
    with pytest.raises(ConfigError, match="train it before converting"):
        trainer(callbacks=[ClusterPenalty()]).fit(classifier(spec="kmeans"), datamodule=digits())
