"""`create`: timm's nets and ours, and one line for each mistake."""

import pytest
import timm
import torch

from autosample.errors import ConfigError
from autosample.models import Mlp, create


def refused(*args, **kwargs) -> str:
    with pytest.raises(ConfigError) as info:
        create(*args, **kwargs)
    message = str(info.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def test_own_and_timm_nets():
    assert isinstance(create("mlp784", num_classes=3, hidden=(8,)), Mlp)
    net = create("test_resnet.r160_in1k", num_classes=4, in_chans=1, drop_rate=0.1).eval()
    assert net(torch.zeros(1, 1, 32, 32)).shape == (1, 4)
    assert create("test_resnet", num_classes=4)(torch.zeros(2, 3, 32, 32)).shape == (2, 4)


def test_features_only_and_none_arguments():
    net = create("wave4", num_classes=0, features_only=True, out_indices=(1,), drop_rate=None)
    assert [m.shape[1] for m in net(torch.zeros(1, 1, 1000))] == [64]


@pytest.mark.parametrize(
    ("name", "hint"), [("soundnet9", '"soundnet8"'), ("Wave4", '"wave4"'), ("resnt18", '"resnet18"'), ("", "no model")]
)
def test_unknown_name_suggests_near_ones(name, hint):
    assert hint in refused(name, num_classes=2)


def test_a_hopeless_name_does_not_list_everything():
    assert "timm.list_models()" in refused("!" * 30, num_classes=2)


def test_unknown_tag():
    message = refused("test_resnet.r160_in2k", num_classes=2)
    assert "tag" in message
    assert '"test_resnet.r160_in1k"' in message
    assert "tag" in refused("wave4.mine", num_classes=2)


@pytest.mark.parametrize("name", ["test_resnet", "wave4", "mlp784", "test_vit"])
def test_unknown_arguments_are_all_named(name):
    message = refused(name, num_classes=2, foo=1, drop_rate=0.1, bar=2)
    assert "foo" in message
    assert "bar" in message
    assert "drop_rate" not in message


def test_argument_that_the_net_sets_itself():
    assert "does not take cfg" in refused("wave4", num_classes=2, cfg=3)


def test_other_type_errors_stay_as_they_are():
    with pytest.raises(TypeError):
        create("mlp784", num_classes=2, hidden=3)


def test_pretrained_without_weights():
    message = refused("wave4", num_classes=2, pretrained=True)
    assert "pretrained=False" in message
    assert "checkpoint_path" in message


def test_pretrained_from_a_file_of_ones_own(tmp_path):
    source = create("digitnet", num_classes=10)
    torch.save(source.state_dict(), tmp_path / "net.pt")
    overlay = {"file": str(tmp_path / "net.pt")}
    net = create("digitnet", num_classes=4, pretrained=True, pretrained_cfg_overlay=overlay)
    torch.testing.assert_close(net.stages[0].conv.weight, source.stages[0].conv.weight)
    assert net.get_classifier().out_features == 4
    same = create("digitnet", num_classes=10, checkpoint_path=str(tmp_path / "net.pt"))
    torch.testing.assert_close(same.get_classifier().weight, source.get_classifier().weight)


@pytest.mark.parametrize("counts", [{"num_classes": -1}, {"num_classes": 2, "in_chans": 0}])
def test_counts_out_of_range(counts):
    assert "change these" in refused("test_resnet", **counts)


def test_registered_in_timm():
    assert {"soundnet8", "musicdet", "m5", "wave4"} <= set(timm.list_models())
