"""Images in `root/CLASS/*` without parts, the name of `image_size`, and the number of workers."""

from collections import Counter

import pytest
from data_files import write_pngs, write_tone

from autosample.data import AudioCSV, Digits, ImageFolder, base
from autosample.data.splits import hold_out
from autosample.errors import DataError


@pytest.fixture
def flat(tmp_path):
    (tmp_path / ".autosample-cache").mkdir()
    return write_pngs(tmp_path, ("ant", "bee"), 10, size=8)


def parts(data):
    examples = data.examples
    return [set(rows.tolist()) for rows in (examples.train, examples.val, examples.test)]


@pytest.mark.parametrize("resident", [False, True])
def test_flat_folders_are_split_by_share_and_seed(flat, resident):
    data = ImageFolder(str(flat), image_size=8, val_fraction=0.25, test_fraction=0.2, resident=resident)
    assert data.class_names == ("ant", "bee")
    assert data.sizes == {"train": 12, "val": 4, "test": 4}
    train, val, test = parts(data)
    assert train | val | test == set(range(20))
    assert Counter(data.examples.y[list(test)].tolist()) == {0: 2, 1: 2}
    assert test == set(hold_out(data.examples.y, 0.2, 0)[1].tolist())
    assert parts(ImageFolder(str(flat), val_fraction=0.25, seed=7)) == [train, val, test]
    assert parts(ImageFolder(str(flat), val_fraction=0.25, split_seed=7))[2] != test


def test_flat_folders_with_the_usual_options(flat):
    data = ImageFolder(str(flat), image_size=8, batch_size=4, num_workers=0)
    assert data.sizes == {"train": 16, "val": 4, "test": 4}  # as without a part for testing
    assert next(iter(data.train_dataloader()))[0].shape == (4, 3, 8, 8)
    for share in (0, 1):
        with pytest.raises(DataError, match=rf"test_fraction must be in \(0, 1\), got {share}"):
            ImageFolder(str(flat), test_fraction=share)


@pytest.mark.parametrize("name", ["Training", "valid", "test"])
def test_parts_with_other_names_are_not_classes(tmp_path, name):
    write_pngs(tmp_path / name, ("ant", "bee"), 2)
    write_pngs(tmp_path / "more", ("ant", "bee"), 2)
    with pytest.raises(DataError, match=r"found no folder .*train"):
        _ = ImageFolder(str(tmp_path)).class_names


@pytest.mark.parametrize("kind", [ImageFolder, Digits])
def test_img_size_is_image_size(kind):
    with pytest.raises(DataError, match="img_size is called image_size here: pass image_size=32"):
        kind(img_size=32)
    assert kind(image_size=32).input_shape[1:] == (32, 32)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_machine_sets_the_number_of_workers(flat, monkeypatch):
    monkeypatch.setattr(base, "threads_for", lambda jobs: 6 // jobs)
    files = ImageFolder(str(flat), image_size=8)
    assert files.train_dataloader().num_workers == 5
    assert ImageFolder(str(flat), image_size=8, num_workers=2).train_dataloader().num_workers == 2
    assert Digits(resident=False).train_dataloader().num_workers == 0
    monkeypatch.setattr(base, "threads_for", lambda jobs: 100)
    assert files.train_dataloader().num_workers == 16
    monkeypatch.setattr(base, "threads_for", lambda jobs: 1)
    assert files.train_dataloader().num_workers == 0


def test_limits_are_options_of_data_sets(flat, tmp_path):
    for resident in (False, True):
        data = ImageFolder(str(flat), image_size=8, resident=resident, max_pixels=63, num_workers=0)
        with pytest.raises(DataError, match="an image may have 63 pixels, got 8×8"):
            list(data.train_dataloader())
        assert len(list(ImageFolder(str(flat), image_size=8, resident=resident, max_pixels=64).val_dataloader())) == 1
    (tmp_path / "metadata.csv").write_text("path,label\na.wav,x\nb.wav,x\n")
    for name in "ab":
        write_tone(tmp_path / f"{name}.wav", seconds=0.5)
    with pytest.raises(DataError, match=r"a sound may last 0\.4 s"):
        AudioCSV(str(tmp_path), max_seconds=0.4).setup()
    with pytest.raises(DataError, match="a file may have 100 bytes"):
        AudioCSV(str(tmp_path), max_bytes=100).setup()
    assert AudioCSV(str(tmp_path), max_seconds=0.5).sizes["test"] == 1
