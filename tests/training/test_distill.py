import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import EMAWeightAveraging
from safetensors.torch import save_file
from scipy.special import log_softmax, softmax
from torch import nn

import autosample
from autosample.artifact.loading import load_any
from autosample.errors import ConfigError
from autosample.models import create
from autosample.training.distill import confidence_weights, distillation_loss, make_teacher, permuted, taught_loss


@pytest.fixture
def dense(tmp_path):
    """A dense net, and the file of its weights."""
    torch.manual_seed(1)
    net = create("digitnet", num_classes=10, in_chans=1).eval()
    save_file(net.state_dict(), path := tmp_path / "dense.safetensors")
    return net, str(path)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_hintons(temperature):
    said, taught = torch.randn(2, 5, 7, dtype=torch.float64).unbind()
    total = 0.0
    for s, t in zip(said.tolist(), taught.tolist(), strict=True):
        p, q = ([math.exp(v / temperature) for v in row] for row in (t, s))
        p, q = ([v / sum(row) for v in row] for row in (p, q))
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    found = distillation_loss(said, taught, temperature)
    assert float(found) == pytest.approx(temperature**2 * total / 5, rel=1e-12)
    assert float(distillation_loss(taught, taught, temperature)) == pytest.approx(0, abs=1e-12)


def losses_by_the_paper(scores, y, taught):
    """Furlanello et al. 2018, section 3, one example after the other."""
    ce = [-float(log_softmax(row)[label]) for row, label in zip(scores, y, strict=True)]
    p = [softmax(row) for row in taught]
    ban = [-float((q * log_softmax(row)).sum()) for q, row in zip(p, scores, strict=True)]
    total = sum(max(q) for q in p)
    return {
        "ban": sum(ban) / len(ban),
        "ban+l": sum(ce) / len(ce) + sum(ban) / len(ban),
        "cwtm": sum(max(q) / total * loss for q, loss in zip(p, ce, strict=True)),
    }


@pytest.mark.parametrize("how", ["ban", "ban+l", "cwtm"])
def test_losses_of_born_again_networks(how):
    scores, taught = torch.randn(2, 6, 5, dtype=torch.float64).unbind()
    y = torch.tensor([0, 4, 2, 2, 1, 3])
    losses = F.cross_entropy(scores, y, reduction="none")
    found = taught_loss(how, 4.0, scores, losses, taught)
    assert float(found) == pytest.approx(losses_by_the_paper(scores.numpy(), y, taught.numpy())[how], rel=1e-12)


def test_the_gradient_of_ban_is_the_difference_of_probabilities():
    scores, taught = torch.randn(4, 5, dtype=torch.float64, requires_grad=True), torch.randn(4, 5, dtype=torch.float64)
    taught_loss("ban", 1.0, scores, torch.zeros(4, dtype=torch.float64), taught).backward()
    torch.testing.assert_close(scores.grad, (scores.softmax(-1) - taught.softmax(-1)).detach() / 4)


def test_permuted_probabilities_keep_the_largest_and_all_values():
    p = torch.randn(200, 7, dtype=torch.float64).softmax(-1)
    p[0] = 1 / 7  # equal ones too
    q = permuted(p)
    assert torch.equal(q.sort(-1).values, p.sort(-1).values)
    assert torch.equal(q.argmax(-1), p.argmax(-1))
    assert torch.equal(q.amax(-1), p.amax(-1))
    assert not torch.equal(q, permuted(p))  # drawn again each time
    # every other class gets every other place about as often
    rows = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).repeat(6000, 1)
    counts = torch.stack([(permuted(rows) == v).float().mean(0) for v in (0.3, 0.2, 0.1)])
    torch.testing.assert_close(counts[:, 1:], torch.full((3, 3), 1 / 3), rtol=0, atol=0.03)
    assert counts[:, 0].sum() == 0


def test_the_permutation_takes_the_step_s_chance():
    p = torch.randn(5, 6).softmax(-1)
    torch.manual_seed(3)
    first = permuted(p)
    torch.manual_seed(3)
    assert torch.equal(permuted(p), first)


def test_weights_by_confidence_add_up_to_one():
    assert float(confidence_weights(torch.rand(9, 4, dtype=torch.float64).softmax(-1)).sum()) == pytest.approx(1)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_step_asks_for_labels_and_for_what_the_dense_net_says(classifier, dense, share):
    net, path = dense
    model = classifier(distill=share, temperature=2.0, model_args={"checkpoint_path": path}).eval()
    model.log = lambda *args, **options: None
    model._trainer = type("", (), {"loggers": []})()
    model.on_fit_start()
    x, y = torch.randn(6, 1, 8, 8), torch.arange(6)
    scores = model(x)
    wanted = (1 - share) * F.cross_entropy(scores, y) + share * distillation_loss(scores, net(x), 2.0)
    torch.testing.assert_close(model.training_step((x, y), 0), wanted)


def test_the_teacher_is_no_part_of_the_net(classifier, digits, trainer, dense, tmp_path):
    net, path = dense
    before = {name: t.clone() for name, t in net.state_dict().items()}
    model = classifier(distill=0.5, model_args={"checkpoint_path": path})
    plain = set(classifier().state_dict())
    runner = trainer(max_epochs=1, limit_train_batches=4, limit_val_batches=0)
    kept = []
    model.on_train_end = lambda: kept.extend(model._teacher)
    runner.fit(model, datamodule=digits())
    runner.save_checkpoint(tmp_path / "a.ckpt")
    assert set(torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]) == plain
    (teacher,) = kept
    assert all(torch.equal(before[name], t) for name, t in teacher.state_dict().items())  # norms too
    assert not model._teacher


@pytest.mark.parametrize("kind", ["saved", "checkpoint"])
def test_a_teacher_is_a_saved_model_or_a_checkpoint(classifier, digits, trainer, tmp_path, kind):
    """The generation before, compressed and hardened, whatever the pupil is."""
    first = classifier(seed=1)
    runner = trainer(max_epochs=1, limit_train_batches=2, limit_val_batches=0)
    runner.fit(first, datamodule=digits())
    place = tmp_path / "a.ckpt"
    runner.save_checkpoint(place)
    if kind == "saved":
        autosample.save(load_any(place)[0], place := tmp_path / "first")
    pupil = classifier(spec="dense", distill="ban", teacher=str(place), seed=2)
    plain = set(pupil.state_dict())
    pupil.log = lambda *args, **options: None
    pupil._trainer = type("", (), {"loggers": []})()
    pupil.on_fit_start()
    x, y = torch.randn(6, 1, 8, 8), torch.arange(6)
    p = load_any(place)[0](x).softmax(-1)
    wanted = -(p * pupil.eval()(x).log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(pupil.training_step((x, y), 0), wanted)
    assert set(pupil.state_dict()) == plain


def test_parts_of_the_teacher_stay_as_they_are_in_the_net_and_in_its_average(
    classifier, digits, trainer, dense, tmp_path
):
    autosample.save(dense[0], tmp_path / "dense")
    taught = dict(dense[0].named_parameters())
    names = ["stages.0.conv", "head"]
    inherited = {name for name in taught if name.startswith(tuple(f"{part}." for part in names))}
    starts, path = None, tmp_path / "a.ckpt"
    for epochs in (1, 2):  # the second one goes on
        pupil = classifier(spec="dense", distill="ban", teacher=str(tmp_path / "dense"), inherit=names, seed=2)
        starts = starts or {name: t.clone() for name, t in pupil.net.named_parameters()}
        runner = trainer(max_epochs=epochs, limit_val_batches=0, callbacks=[EMAWeightAveraging(decay=0.5)])
        runner.fit(pupil, datamodule=digits(), ckpt_path=path if path.exists() else None)
        runner.save_checkpoint(path)
        found = dict(pupil.net.named_parameters())
        assert {name for name in found if torch.equal(found[name], taught[name])} == inherited
        assert not any(torch.equal(found[name], starts[name]) for name in found if found[name].ndim > 1)
        state = torch.load(path, weights_only=True)
        for kept in (state["state_dict"], state["current_model_state"]):
            assert all(torch.equal(kept[f"net.{name}"], taught[name]) for name in inherited)


@pytest.mark.parametrize(
    ("names", "spec", "message"),
    [
        (["haed"], "dense", 'got "haed", which the net lacks: did you mean "head"'),
        (["stages.4.conv"], "wsnet", 'net and teacher must have the same "stages.4.conv", got shapes'),
    ],
)
def test_parts_that_net_and_teacher_do_not_share(classifier, digits, trainer, dense, tmp_path, names, spec, message):
    autosample.save(dense[0], tmp_path / "dense")
    pupil = classifier(spec=spec, distill="ban", teacher=str(tmp_path / "dense"), inherit=names)
    with pytest.raises(ConfigError, match=message):
        trainer(max_epochs=1).fit(pupil, datamodule=digits())


def test_a_teacher_with_other_classes(classifier, tmp_path):
    autosample.save(create("digitnet", num_classes=7, in_chans=1).eval(), tmp_path)
    model = classifier(distill="cwtm", teacher=str(tmp_path))
    model._trainer = type("", (), {"loggers": []})()
    with pytest.raises(ConfigError, match="the same classes, got 7 and 10"):
        model.on_fit_start()


def test_a_teacher_of_timm_has_its_trained_weights(monkeypatch):
    asked = {}

    def create(name, **given):
        asked.update(given, name=name)
        return nn.Linear(2, 3)

    monkeypatch.setattr("autosample.models.create", create)
    settings = {"teacher": "timm:resnet18.a1_in1k", "num_classes": 3, "in_chans": None}
    assert not make_teacher(settings, torch.device("cpu")).training
    assert asked == {"name": "resnet18.a1_in1k", "pretrained": True, "num_classes": 3, "in_chans": None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distill": 0.5}, "trained weights, got none: name a teacher, or set pretrained or checkpoint_path"),
        ({"distill": "bam", "teacher": "x"}, 'got "bam": did you mean "ban"'),
        ({"teacher": "x"}, "a teacher needs a loss, got x and no distill"),
        ({"distill": 1.5}, "distill must be between 0 and 1"),
        ({"temperature": 0.0}, "temperature above 0"),
        ({"inherit": ["fc"]}, "inherit takes parts of a teacher, got none"),
    ],
)
def test_mistakes(classifier, options, message):
    with pytest.raises(ConfigError, match=message):
        classifier(**options)
