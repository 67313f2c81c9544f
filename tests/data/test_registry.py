"""The table of data sets: a class with a row there works in grids and on the command line."""

import subprocess
import sys

import pytest

from autosample.cli.main import main
from autosample.data import DATASETS, Digits
from autosample.errors import ConfigError, DataError
from autosample.experiments.parse import make_grid
from autosample.experiments.run import make_data, run_cell


class ToyDigits(Digits):
    """A set of one's own: digits, larger."""

    def __init__(self, image_size: int = 12, **common) -> None:
        super().__init__(image_size=image_size, **common)


@pytest.mark.parametrize("kind", [kind for kind in DATASETS.values() if kind is not Digits], ids=lambda k: k.__name__)
@pytest.mark.parametrize("name", ["x" * 200, "two\nlines"])
def test_a_missing_folder_is_named_in_one_short_line(tmp_path, kind, name):
    root = tmp_path / name / ("y" * 200)
    with pytest.raises(DataError) as caught:
        kind(str(root)).setup()
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) <= 300
    assert "y" * 50 in said


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(DATASETS, "ToyDigits", ToyDigits)


def test_rows_have_the_names_of_their_classes():
    assert all(name == kind.__name__ for name, kind in DATASETS.items())


def test_a_set_with_a_row_works_in_a_grid(toy):
    data = {"class": "ToyDigits", "batch_size": 512}
    model = {"name": "digitnet", "num_classes": 10, "in_chans": 1}
    config = {"data": data, "model": model, "train": {"epochs": 1}, "presets": ["random"], "ratios": [4], "seeds": 1}
    record = run_cell(make_grid(config).cells[0])
    assert record.settings["data"] == "ToyDigits"
    with pytest.raises(ConfigError, match='"ToyDigit": did you mean "ToyDigits"'):
        make_grid(config | {"data": {"class": "ToyDigit"}})


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_a_set_with_a_row_works_on_the_command_line(toy, tmp_path, capsys):
    options = [
        "--model.model=digitnet",
        "--model.in_chans=1",
        "--model.ratio=4",
        f"--trainer.default_root_dir={tmp_path}",
    ]
    few = ["--trainer.fast_dev_run=1", "--trainer.enable_progress_bar=false"]
    assert main(["fit", "--data=ToyDigits", *options, *few]) == 0
    assert main(["fit", "--data=ToyDigit", *options, *few]) == 2
    assert 'did you mean "ToyDigits"' in capsys.readouterr().err


def test_without_a_row_a_full_path_works():
    made = make_data(f"{__name__}.ToyDigits", {}, seed=0, fold=None, holdout=0.0)
    assert type(made) is ToyDigits
    for wrong in ("no.such.place", f"{__name__}.Nothing", "pathlib.Path"):
        with pytest.raises(ConfigError, match="data must name a class"):
            make_data(wrong, {}, seed=0, fold=None, holdout=0.0)


@pytest.mark.slow
def test_readers_of_files_are_imported_when_a_file_is_read():
    code = "import sys, autosample.data; print([n for n in ('soundfile', 'soxr', 'sklearn') if n in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
