import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from autosample.errors import ConfigError
from autosample.models import create
from autosample.training.distill import distillation_loss


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distill": 0.5}, "trained weights, got none: set pretrained or checkpoint_path"),
        ({"distill": 1.5}, "distill must be between 0 and 1"),
        ({"temperature": 0.0}, "temperature above 0"),
    ],
)
def test_mistakes(classifier, options, message):
    with pytest.raises(ConfigError, match=message):
        classifier(**options)
