"""A loaded model tells how its inputs were made, to timm too."""

import timm
import torch

import autosample
import autosample.models
from autosample.data import Digits


def test_timm_finds_the_preprocessing_that_was_saved(tmp_path):
    model = timm.create_model("test_resnet", num_classes=3, in_chans=1).eval()
    autosample.convert_(model, "random", ratio=4)
    made = {"input_size": [1, 16, 16], "mean": [0.305], "std": [0.376], "crop_pct": 0.9}
    autosample.save(model, tmp_path, preprocessing=made, class_names=["a", "b", "c"])
    loaded = autosample.load(tmp_path)
    found = timm.data.resolve_model_data_config(loaded)
    assert found["input_size"] == (1, 16, 16)
    assert found["mean"] == (0.305,)
    assert found["std"] == (0.376,)
    assert found["crop_pct"] == 0.9
    assert loaded.class_names == ("a", "b", "c")
    assert loaded.preprocessing == made
    # it stays so when it is saved once more
    autosample.save(loaded, tmp_path / "again")
    assert timm.data.resolve_model_data_config(autosample.load(tmp_path / "again"))["mean"] == (0.305,)


class Own(torch.nn.Module):
    """A model with a part and a property of these names."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = torch.nn.BatchNorm1d(32)
        self.head = torch.nn.Linear(32, 8)

    @property
    def class_names(self) -> str:
        return "mine"

    def forward(self, x):
        return self.head(self.preprocessing(x))


def test_a_model_may_have_attributes_of_these_names(tmp_path):
    model, x = Own().eval(), torch.randn(3, 32)
    autosample.convert_(model, "random", ratio=2)
    autosample.save(model, tmp_path, factory=Own, preprocessing={"input_size": [32]}, class_names=list("abcdefgh"))
    loaded = autosample.load(tmp_path, factory=Own)
    assert torch.equal(loaded(x), model(x))
    assert loaded.class_names == "mine"


def test_data_and_model_agree(tmp_path):
    data = Digits(image_size=16)
    model = autosample.models.create("digitnet", num_classes=10).eval()
    autosample.convert_(model, "random", ratio=4)
    autosample.save(model, tmp_path, preprocessing=data.preprocessing)
    loaded = autosample.load(tmp_path)
    assert loaded.preprocessing == data.preprocessing
    assert loaded.class_names is None
    assert loaded(torch.zeros(1, *loaded.preprocessing["input_size"])).shape == (1, 10)
