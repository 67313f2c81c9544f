import functools
import operator
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from data_files import write_idx, write_pngs
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets

from autosample.data import CIFAR10, CIFAR100, MNIST, Digits, FashionMNIST, ImageFolder
from autosample.errors import DataError


def everything(data, part):
    data.batch_size = 1000
    batches = list({"train": data.train_dataloader, "val": data.val_dataloader, "test": data.test_dataloader}[part]())
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def test_digits_parts_are_stratified_disjoint_and_complete():
    data = Digits()
    data.setup()
    examples = data.examples
    parts = [rows.tolist() for rows in (examples.train, examples.val, examples.test)]
    assert sorted(functools.reduce(operator.iadd, parts, [])) == list(range(1797))
    overall = Counter(load_digits().target.tolist())
    for part, share in zip(parts, (0.72, 0.08, 0.2), strict=True):
        counts = Counter(examples.y[part].tolist())
        assert all(abs(counts[c] - share * overall[c]) <= 1.5 for c in range(10))
    # the test part never changes
    assert Digits(seed=5, split_seed=9, val_fraction=0.3).examples.test.tolist() == parts[2]
    assert Digits(split_seed=9).examples.val.tolist() != parts[1]


def test_digits_pixels():
    data = Digits()
    assert (data.num_classes, data.input_shape) == (10, (1, 8, 8))
    x, y = everything(data, "test")
    images, labels = load_digits(return_X_y=True)
    rows = data.examples.test.numpy()
    assert np.allclose(x.flatten(1) * 0.3761 + 0.3053, images[rows] / 16, atol=1e-6)
    assert (y == labels[rows]).all()
    train = everything(Digits(drop_last=False), "train")[0]
    assert abs(train.mean()) < 0.02
    assert abs(train.std() - 1) < 0.02
    big = Digits(image_size=20)
    assert big.input_shape == (1, 20, 20)
    assert everything(big, "val")[0].shape[1:] == (1, 20, 20)


def test_validation_on_the_test_part():
    data = Digits(val_fraction=0)
    assert data.sizes["val"] == data.sizes["test"] == 359
    assert torch.equal(everything(data, "val")[0], everything(data, "test")[0])


def test_resident_or_not_gives_the_same_batches():
    kinds = [Digits(padding=1, flip=True, resident=resident, seed=4) for resident in (True, False)]
    for data in kinds:
        data.epoch = 3
    for loaders in zip(
        *[(d.train_dataloader(), d.val_dataloader(), d.predict_dataloader()) for d in kinds], strict=True
    ):
        assert len(loaders[0]) == len(loaders[1])
        for a, b in zip(*loaders, strict=True):
            assert torch.equal(a[0], b[0])
            assert torch.equal(a[1], b[1])


@pytest.mark.parametrize(("kind", "folder"), [(MNIST, "MNIST"), (FashionMNIST, "FashionMNIST")])
def test_mnist_files(tmp_path, kind, folder):
    write_idx(tmp_path / folder / "raw")
    data = kind(str(tmp_path), padding=0, flip=False, val_fraction=0.34)
    assert (data.num_classes, data.input_shape) == (10, (1, 28, 28))
    assert data.sizes == {"train": 20, "val": 10, "test": 30}
    assert data.examples.x.dtype == torch.uint8
    for part in ("train", "val", "test"):
        x, y = everything(data, part)
        want = ((y.float() + 10) / 255 - kind.mean[0]) / kind.std[0]
        torch.testing.assert_close(x, want.view(-1, 1, 1, 1).expand_as(x))


def cifar_folder(root):
    for seed, part in enumerate(("train", "test")):
        write_pngs(root / "cifar10" / part, CIFAR10.names, 4, seed=seed)
    return root


def test_cifar10_from_folders_of_images(tmp_path):
    root = cifar_folder(tmp_path)
    first = CIFAR10(str(root), padding=0, flip=False)
    assert first.sizes == {"train": 30, "val": 10, "test": 40}
    assert first.input_shape == (3, 32, 32)
    for row, y in zip(first.examples.train.tolist(), first.examples.y[first.examples.train].tolist(), strict=True):
        path = root / "cifar10" / "train" / CIFAR10.names[y] / f"{row % 4:03d}.png"
        assert np.array_equal(first.examples.x[row].permute(1, 2, 0).numpy(), np.asarray(Image.open(path)))
    second = CIFAR10(str(root / "cifar10"))
    assert torch.equal(second.examples.x, first.examples.x)
    changed = root / "cifar10" / "train" / "cat" / "000.png"
    Image.new("RGB", (32, 32)).save(changed)
    assert not torch.equal(CIFAR10(str(root)).examples.x, first.examples.x)
    (root / "cifar10" / "train" / "zebra").mkdir()
    with pytest.raises(DataError, match="10 classes of CIFAR10, missing or unknown: zebra"):
        CIFAR10(str(root)).setup()


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_cifar_from_torchvision_files(tmp_path, monkeypatch, kind):
    reader = kind.reader
    folder = tmp_path / reader.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    count = kind(str(tmp_path)).num_classes
    pixels = {}
    for name, _ in reader.train_list + reader.test_list:
        labels = list(range(count))
        pixels[name] = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        key = "labels" if kind is CIFAR10 else "fine_labels"
        (folder / name).write_bytes(pickle.dumps({"data": pixels[name], key: labels}))
    (folder / reader.meta["filename"]).write_bytes(pickle.dumps({reader.meta["key"]: list(kind.names)}))
    monkeypatch.setattr(reader, "_check_integrity", lambda self: True)
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": None})
    data = kind(str(tmp_path), val_fraction=0)
    data.setup()
    last = reader.test_list[0][0]
    assert np.array_equal(data.examples.x[data.examples.test].flatten(1).numpy(), pixels[last])
    assert data.sizes["train"] == count * len(reader.train_list)
    assert data.examples.y[data.examples.test].tolist() == list(range(count))


def image_tree(root, sizes=(40, 40), parts=("train", "val")):
    for seed, part in enumerate(parts):
        write_pngs(root / part, ("ant", "bee"), 5, size=sizes[0], seed=seed)
    return root


def test_image_folder_transforms_are_timms(tmp_path):
    from timm.data import create_transform

    data = ImageFolder(str(image_tree(tmp_path)), image_size=24, batch_size=4)
    assert data.class_names == ("ant", "bee")
    assert data.input_shape == (3, 24, 24)
    assert data.sizes == {"train": 10, "val": 10, "test": 10}
    x, y = everything(data, "test")
    want = create_transform(24, is_training=False)
    paths = sorted((tmp_path / "val").glob("*/*.png"))
    assert torch.equal(x, torch.stack([want(Image.open(path).convert("RGB")) for path in paths]))
    assert y.tolist() == [0] * 5 + [1] * 5


def test_image_folder_batches_depend_on_seed_and_epoch_only(tmp_path):
    image_tree(tmp_path)

    def batches(epoch, workers=0, **options):
        data = ImageFolder(str(tmp_path), image_size=16, batch_size=4, num_workers=workers, **options)
        data.epoch = epoch
        return torch.cat([x for x, _ in data.train_dataloader()])

    policy = {"auto_augment": "rand-m9-mstd0.5"}
    state = torch.get_rng_state()
    first = batches(2, **policy)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, batches(2, workers=2, **policy))
    assert not torch.equal(first, batches(1, **policy))


def test_image_folder_parts(tmp_path):
    image_tree(tmp_path, parts=("train", "val", "test"))
    options = {"root": str(tmp_path), "image_size": 16}
    with_test = ImageFolder(**options)
    assert with_test.sizes == {"train": 10, "val": 10, "test": 10}
    assert "/val/" in with_test.examples.x[with_test.examples.val[0]]
    assert "/test/" in with_test.examples.x[with_test.examples.test[0]]
    held = ImageFolder(val_fraction=0.2, **options)
    assert held.sizes == {"train": 8, "val": 2, "test": 10}
    assert "/train/" in held.examples.x[held.examples.val[0]]


def test_image_folder_on_the_device(tmp_path):
    image_tree(tmp_path, sizes=(20, 20))
    data = ImageFolder(str(tmp_path), image_size=16, resident=True, drop_last=False)
    assert data.examples.x.shape == (20, 3, 20, 20)
    assert data.examples.x.dtype == torch.uint8
    assert everything(data, "train")[0].shape == (10, 3, 16, 16)
    Image.new("RGB", (9, 20)).save(tmp_path / "train" / "bee" / "new.png")
    with pytest.raises(DataError, match=r"all be 20×20 pixels, got 9×20 in .*new\.png"):
        ImageFolder(str(tmp_path), resident=True).setup()
    with pytest.raises(DataError, match="auto_augment needs resident=False"):
        ImageFolder(str(tmp_path), resident=True, auto_augment="rand-m9")


def test_broken_image_is_named(tmp_path):
    image_tree(tmp_path)
    (tmp_path / "train" / "ant" / "000.png").write_bytes(b"broken")
    data = ImageFolder(str(tmp_path), image_size=16)
    with pytest.raises(DataError, match=r"000\.png: not a readable image"):
        list(data.train_dataloader())
    with pytest.raises(DataError, match=r"000\.png: not a readable image"):
        ImageFolder(str(tmp_path), image_size=16, resident=True).setup()


def test_missing_and_empty_folders(tmp_path):
    for make, message in (
        (lambda: MNIST(str(tmp_path)), "MNIST/raw/.* cannot be read: Dataset not found"),
        (lambda: FashionMNIST(str(tmp_path)), "FashionMNIST/raw/"),
        (lambda: CIFAR10(str(tmp_path)), "cifar-10-batches-py or .*cifar10/train/CLASS"),
        (lambda: CIFAR100(str(tmp_path)), "cifar-100-python or .*cifar100/train/CLASS"),
        (lambda: ImageFolder(str(tmp_path)), "ImageNet's layout .*expected, found no folder .*train"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            make().setup()
        assert "\n" not in str(caught.value)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="one folder of images per class, got none"):
        ImageFolder(str(tmp_path)).setup()
    write_pngs(tmp_path / "train" / "x" / "..", ("ant",), 1)
    with pytest.raises(DataError, match=r"val or test was expected in .*, got neither"):
        ImageFolder(str(tmp_path)).setup()
    write_pngs(tmp_path / "val", ("wasp",), 1)
    with pytest.raises(DataError, match="class folders that the training folder lacks: wasp"):
        ImageFolder(str(tmp_path)).setup()


def test_class_folder_without_images(tmp_path):
    image_tree(tmp_path)
    (tmp_path / "train" / "cow").mkdir()
    with pytest.raises(DataError, match="training example, got none for cow"):
        ImageFolder(str(tmp_path)).setup()


@pytest.mark.parametrize("damage", [b"", b"short", b"\x00" * 3000])
def test_damaged_idx_file(tmp_path, damage):
    (write_idx(tmp_path / "MNIST" / "raw") / "train-images-idx3-ubyte").write_bytes(damage)
    with pytest.raises(DataError, match="MNIST/raw") as caught:
        MNIST(str(tmp_path)).setup()
    assert "\n" not in str(caught.value)


def test_images_without_a_label_each(tmp_path):
    raw = write_idx(tmp_path / "MNIST" / "raw")
    short = np.array([0x0801, 5], dtype=">i4").tobytes() + bytes(5)
    (raw / "train-labels-idx1-ubyte").write_bytes(short)
    with pytest.raises(DataError, match=r"a label each, got .* 5 labels"):
        MNIST(str(tmp_path)).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"val_fraction": -0.1}, r"val_fraction must be in \[0, 1\), got -0.1"),
        ({"val_fraction": 1}, r"val_fraction must be in \[0, 1\), got 1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
        ({"padding": -1}, "padding must be at least 0"),
        ({"image_size": 0}, "image_size must be at least 1"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(DataError, match=message):
        Digits(**options)


@pytest.mark.data
def test_real_mnist(real_data):
    data = MNIST(real_data)
    assert data.sizes == {"train": 54001, "val": 5999, "test": 10000}
    official = datasets.MNIST(real_data, train=False)
    assert torch.equal(data.examples.x[data.examples.test, 0], official.data)
