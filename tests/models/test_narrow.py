import pytest
import torch
from torch import nn

from autosample.errors import ConfigError
from autosample.models import create
from autosample.models.narrow import width_args


def size(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["digitnet", "wave4", "musicdet", "mlp784_5", "resnet18", "test_resnet"])
def test_a_quarter_of_the_width_is_about_a_sixteenth_of_the_weights(name):
    with torch.device("meta"):
        full = create(name, num_classes=10)
        narrow = create(name, num_classes=10, **width_args(full, 0.25))
        same = create(name, num_classes=10, **width_args(full, 1.0))
    assert size(same) == size(full)
    # the first layer's inputs and the classifier's outputs keep their number
    assert size(full) / 19 < size(narrow) < size(full) / 3.5
    assert narrow.num_features == pytest.approx(full.num_features / 4, abs=1)


def test_a_narrow_net_runs():
    full = create("test_resnet", num_classes=3)
    narrow = create("test_resnet", num_classes=3, **width_args(full, 0.1)).eval()
    assert narrow(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_mistakes():
    with pytest.raises(ConfigError, match="remove narrow from the presets"):
        width_args(nn.Linear(3, 3), 0.5)
    with pytest.raises(ConfigError, match="width must be above 0"):
        create("digitnet", num_classes=10, width=0.0)
