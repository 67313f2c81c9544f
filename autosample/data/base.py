"""The base class of all data sets: parts, loaders, and the place where batches are made."""

import multiprocessing
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor

from autosample.data.files import DEFAULT, is_folder, shown
from autosample.data.resident import BatchPlan, ResidentLoader
from autosample.data.splits import Examples, hold_out
from autosample.data.workers import FileBatches, PlannedBatches, TensorBatches, worker_loader
from autosample.errors import DataError
from autosample.system.machine import threads_for

_MOST_WORKERS = 16
Loader = Any  # a ResidentLoader or a torch DataLoader: both are sized iterables of (x, y)


class ClassificationData(pl.LightningDataModule):
    """Base of the data sets: batches are pairs `(x, y)`, x float32 (B, *input_shape) and y int64 (B,).

    With `resident=True` the whole set is one tensor on the training device, and batches are cut and augmented there
    (`ResidentLoader`). With `resident=False` a torch DataLoader does this in `num_workers` processes. Device, epoch
    and rank come from the trainer; without one they are the CPU, the attribute `epoch`, and 0 of 1. In both cases the
    order of examples depends only on (`seed`, epoch).

    Subclasses give `class_names`, `input_shape` and `_load`, and if needed `_train_transform` and `_eval_transform`.

    Args:
        root: folder of the data; `~` is the home folder.
        batch_size: examples per batch on each device.
        val_fraction: share of the training examples held out for validation, class by class, 0 <= val_fraction < 1.
            With 0, validation uses the test examples, except in sets with official folds, where there is none.
        split_seed: seed of this choice; keep it the same in runs that you compare.
        seed: seed of the order of the training examples and of their augmentation.
        num_workers: processes that make batches, used with `resident=False` only; None for one less than the cores, at
            most 16, if the batches are made of files. A value of `OMP_NUM_THREADS` below the cores counts instead.
        resident: keep all examples as one tensor on the training device.
        drop_last: leave out the last training batch of an epoch if it is short, unless it is the only one.

    Raises:
        DataError: an argument is out of range (raised at once), or the data are missing or unusable (raised when they
            are first needed).
    """

    validates_on_test: ClassVar[bool] = True
    multilabel = False  #: whether an example may have several classes; y is then bool, (B, number of classes)
    limits = DEFAULT  #: what a file may hold

    def __init__(
        self,
        root: str = "data",
        batch_size: int = 64,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        seed: int = 0,
        num_workers: int | None = None,
        resident: bool = True,
        drop_last: bool = True,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        for name, value, low in (
            ("batch_size", batch_size, 1),
            ("split_seed", split_seed, 0),
            ("seed", seed, 0),
            ("num_workers", num_workers or 0, 0),
        ):
            require_at_least(name, value, low)
        if not 0 <= val_fraction < 1:
            raise DataError(f"val_fraction must be in [0, 1), got {val_fraction}: pass 0.1 to hold out a tenth")
        self.root = Path(root).expanduser()
        self.batch_size, self.val_fraction, self.split_seed, self.seed = batch_size, val_fraction, split_seed, seed
        self.num_workers, self.resident, self.drop_last = num_workers, resident, drop_last
        self.epoch = 0
        self._on_device: tuple[torch.device, Tensor, Tensor] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example as the model sees it."""
        raise NotImplementedError

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How to prepare inputs, as plain data; a saved model keeps it."""
        return {"input_size": list(self.input_shape)}

    def _load(self) -> Examples:
        """Read the data set. Called once."""
        raise NotImplementedError

    def _train_transform(self) -> Callable[..., Tensor] | None:
        """Augmentation `(x, generator) -> x` of training batches; for image files, from a PIL image to a tensor."""
        return self._eval_transform()

    def _eval_transform(self) -> Callable[..., Tensor] | None:
        """The same for validation, test and prediction, without random numbers."""
        return None

    @cached_property
    def examples(self) -> Examples:
        """The whole data set in main memory, without transforms. Its `val` rows are the ones that validation uses."""
        examples = self._load()
        examples.check(self.class_names, str(self.root))
        if examples.val is None and self.val_fraction > 0:
            groups = None if examples.groups is None else [examples.groups[i] for i in examples.train.tolist()]
            kept, held = hold_out(examples.y[examples.train], self.val_fraction, self.split_seed, groups)
            examples.train, examples.val = examples.train[kept], examples.train[held]
        elif examples.val is None:
            examples.val = examples.test if self.validates_on_test else examples.test[:0]
        return examples

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each part: `{"train": ..., "val": ..., "test": ...}`."""
        examples = self.examples
        val = 0 if examples.val is None else len(examples.val)
        return {"train": len(examples.train), "val": val, "test": len(examples.test)}

    def prepare_data(self) -> None:
        """Read the data in the node's first process. The others then find decoded files in the cache."""
        _ = self.examples

    def setup(self, stage: str | None = None) -> None:
        """Read the data unless they have been read. All stages do the same."""
        _ = self.examples

    def teardown(self, stage: str | None = None) -> None:
        """Free the device's copy of the data."""
        self._on_device = None

    def train_dataloader(self) -> Loader:
        """Shuffled, augmented batches of the training examples."""
        return self._loader(self.examples.train, self._train_transform(), train=True)

    def val_dataloader(self) -> Loader:
        """Batches of the validation examples; an empty list if there are none.

        Lightning then skips validation and warns, unless you pass `Trainer(limit_val_batches=0)`.
        """
        val = self.examples.val
        return [] if val is None or not len(val) else self._loader(val, self._eval_transform())

    def test_dataloader(self) -> Loader:
        """Batches of the test examples, in their order."""
        return self._loader(self.examples.test, self._eval_transform())

    def predict_dataloader(self) -> Loader:
        """The same as `test_dataloader`."""
        return self.test_dataloader()

    def _loader(self, rows: Tensor, transform: Callable[..., Tensor] | None, train: bool = False) -> Loader:
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        drop_last = train and self.drop_last
        examples = self.examples
        if self.resident:
            x, y = self._resident_tensors()
            return ResidentLoader(
                x, y, self.batch_size, train, transform, self.seed, self._epoch, rank, world, drop_last, rows
            )
        plan = BatchPlan(len(rows), self.batch_size, train, self.seed, rank, world, drop_last)
        dataset = self._batches(plan, rows, transform)
        workers = self.num_workers
        if workers is None:
            workers = 0 if isinstance(examples.x, Tensor) else self._usual_workers()
        return worker_loader(dataset, self._epoch, workers, pin_memory=self._device().type == "cuda")

    def _batches(self, plan: BatchPlan, rows: Tensor, transform: Callable[..., Tensor] | None) -> PlannedBatches:
        """What workers make: the batches of `plan`, cut from these rows."""
        examples = self.examples
        if isinstance(examples.x, Tensor):
            return TensorBatches(examples.x, examples.y, transform, plan, rows)
        if transform is None:
            raise NotImplementedError(f"{type(self).__name__} returns image files and must define their transforms")
        return FileBatches(examples.x, examples.y, transform, plan, rows, self.limits)

    def _usual_workers(self) -> int:
        if multiprocessing.current_process().daemon:  # may not start processes
            return 0
        local = 1 if self.trainer is None else self.trainer.world_size // self.trainer.num_nodes
        return min(threads_for(local) - 1, _MOST_WORKERS)

    def _epoch(self) -> int:
        return self.epoch if self.trainer is None else self.trainer.current_epoch

    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def _resident_tensors(self) -> tuple[Tensor, Tensor]:
        """All examples and labels on the training device. All parts share one copy."""
        device, x = self._device(), self.examples.x
        if not isinstance(x, Tensor):
            raise NotImplementedError(f"{type(self).__name__} with resident=True must load a tensor")
        if self._on_device is None or self._on_device[0] != device:
            try:
                self._on_device = (device, x.to(device), self.examples.y.to(device))
            except torch.OutOfMemoryError as error:
                raise DataError(
                    f"resident=True needs {x.nbytes / 2**30:.1f} GiB free on {device}, got less: pass resident=False"
                ) from error
        return self._on_device[1:]


def require_at_least(name: str, value: float, low: float) -> None:
    """Raise a `DataError` unless `value >= low`."""
    if not value >= low:
        raise DataError(f"{name} must be at least {low}, got {value}")


def refuse_img_size(options: Mapping[str, Any]) -> None:
    """Raise a `DataError` if the option `image_size` was given by timm's name."""
    if "img_size" in options:
        raise DataError(f"img_size is called image_size here: pass image_size={options['img_size']}")


def require_test_fraction(value: float) -> None:
    """Raise a `DataError` unless the value is a share that leaves something on both sides."""
    if not 0 < value < 1:
        raise DataError(f"test_fraction must be in (0, 1), got {value}: 0.2 holds out a fifth")


def require_folder(candidates: list[Path], layout: str) -> Path:
    """The first of `candidates` that is a folder.

    Raises:
        DataError: none is a folder; the message names the places and the expected `layout`.
    """
    for folder in candidates:
        if is_folder(folder):
            return folder
    looked = " or ".join(shown(folder, 70) for folder in candidates)
    raise DataError(f"{layout} was expected, found no folder {looked}: set root to the folder of the data")
