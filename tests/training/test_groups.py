import pytest
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

from autosample import convert_
from autosample.models import create
from autosample.training import parameter_groups


def converted(preset="autosample", name="digitnet", **changes):
    model = create(name, num_classes=10)
    learned = {"afford": 10} if preset == "autosample" else {}
    options = {**learned, **changes.pop("options", {})}
    convert_(model, preset, ratio=4, options=options or None, **changes)
    return model


def by_parameter(model, lr=1e-3, decay=0.05):
    """`{name: group}`; fails where a parameter is in no group or in several."""
    groups = parameter_groups(model, lr, decay)
    names = {id(p): name for name, p in model.named_parameters()}
    found = [(names[id(p)], group) for group in groups for p in group["params"]]
    assert sorted(n for n, _ in found) == sorted(n for n, p in model.named_parameters() if p.requires_grad)
    return dict(found)


@pytest.mark.parametrize("preset", ["autosample", "nes", "wsnet", "kmeans", "hashednet", "dfsnet"])
def test_each_trainable_parameter_is_in_one_group(preset):
    model = converted(preset)
    next(model.parameters()).requires_grad_(False)
    by_parameter(model)


def test_summaries_decay_though_they_are_thin_and_offsets_do_not():
    model = converted("autosample", windows=3)
    thin = converted("hashednet")
    assert any(p.shape[1] == 1 for n, p in thin.named_parameters() if n.endswith("summary"))
    for net in (model, thin):
        for name, group in by_parameter(net).items():
            if name.endswith("summary"):
                assert group["weight_decay"] == 0.05
                assert group["lr"] == 1e-3
    offsets = {n: g for n, g in by_parameter(model).items() if n.endswith("position")}
    assert offsets
    assert all(g["lr"] == 0.2 and g["weight_decay"] == 0 for g in offsets.values())


def test_norms_and_biases_do_not_decay_and_mixing_matrices_do():
    model = converted("wsnet", denser=2)
    assert any(n.endswith("densify") for n, p in model.named_parameters())
    for name, group in by_parameter(model).items():
        exempt = name.endswith("bias") or "norm" in name or ".bn" in name
        assert (group["weight_decay"] == 0) == exempt, name


def test_a_parameter_of_the_users_may_be_called_summary():
    """Only its shape says whether it decays; it is no summary of ours."""
    model = converted("wsnet")
    model.register_parameter("my_summary", torch.nn.Parameter(torch.zeros(3)))
    model.register_parameter("summary", torch.nn.Parameter(torch.zeros(3, 2)))
    groups = by_parameter(model)
    assert groups["my_summary"]["weight_decay"] == 0
    assert groups["summary"]["weight_decay"] == 0.05


@pytest.mark.parametrize(
    ("fields", "rated"),
    [
        ({"rule": "interpolated"}, {"position"}),
        ({"rule": "interpolated", "options": {"unit": "sigmoid"}}, {"centred"}),
        ({"rule": "categorical"}, {"logits"}),
        ({"rule": "indexed"}, {"weight", "bias"}),  # of the index learner
    ],
)
def test_the_rate_is_that_of_offsets_and_of_choices(fields, rated):
    learned = {"options": {"rate": 0.03, **fields.pop("options", {})}} if "rule" in fields else {}
    groups = by_parameter(converted("random", **learned, **fields))
    fast = {name.rpartition(".")[2] for name, group in groups.items() if group["lr"] == 0.03}
    assert fast == rated
    assert all(g["weight_decay"] == 0 for n, g in groups.items() if ".offsets." in n)


def test_index_learners_and_choices_go_at_the_rate_of_weights_where_none_is_given():
    for preset, fields in (("nes", {}), ("kmeans", {"rule": "categorical"})):
        inside = {n: g for n, g in by_parameter(converted(preset, **fields)).items() if ".offsets." in n}
        assert inside
        assert all(g["lr"] == 1e-3 and g["weight_decay"] == 0 for g in inside.values())


def test_what_a_model_exempts_is_exempt():
    model = converted("wsnet", "vit_tiny_patch16_224", include=["re:.*fc1"])
    groups = by_parameter(model)
    assert groups["pos_embed"]["weight_decay"] == 0
    assert groups["blocks.0.mlp.fc1.summary"]["weight_decay"] == 0.05


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "adan"])
def test_groups_work_with_timm(name):
    model = converted()
    groups = parameter_groups(model, 1e-3, 0.05)
    before = [(group["name"], group["lr"], group["weight_decay"]) for group in groups]
    optimizer = create_optimizer_v2(groups, opt=name, lr=1e-3, weight_decay=0.05)
    after = [(group["name"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert after == before
    scheduler, _ = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=4, step_on_epochs=False, updates_per_epoch=5
    )
    model(torch.randn(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    scheduler.step_update(10)
    half = [lr / 2 for _, lr, _ in before]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(half)
