"""Examples a second from disk to device, and through training steps, with all sides in turn in one process."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.data.dataset import ImageDataset
from timm.data.loader import create_loader
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from autosample.data import ClassificationData
from autosample.data.files import is_folder
from autosample.data.sets.timm_images import TimmImages
from autosample.data.timm_readers import PARTS, read_folders
from autosample.errors import DataError
from autosample.model.recipe import Recipe
from autosample.system.timing import Ratio, ratio, time_in_turn

_BUDGET = 300.0  # seconds, after which no new round starts


@dataclass(frozen=True)
class Reading:
    """How fast one side reads.

    Attributes:
        side: Name of the side.
        median, low, high: examples a second, with quartiles.
        rounds: number of passes in these.
        speed_up: speed of the first side over that of this one; None for the first.
    """

    side: str
    median: float
    low: float
    high: float
    rounds: int
    speed_up: Ratio | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def measure_input(
    data: ClassificationData, *, batches: int = 16, rounds: int = 15, device: torch.device | None = None
) -> tuple[list[Reading], dict[str, Any]]:
    """Time passes over the same training examples.

    Sides are `autosample`, `torchvision`, `timm` and `timm prefetch` (timm's usual mode: it normalises on the device).
    A pass starts with idle workers and ends when all its batches are on the device, so no side works during another's
    turn. After the first pass, files come from the system's cache.

    Args:
        data: data set; afterwards it has the measured training examples only.
        batches: batches of a pass; fewer if the set has fewer.
        rounds: largest number of rounds; there are fewer if they take more than five minutes.
        device: where batches go; by default the CPU.

    Returns:
        The sides, and what was read: number of examples, size of batches, workers, and why a side is missing.

    Raises:
        DataError: The data cannot be read, or there is no whole batch.
    """
    device = device or torch.device("cpu")
    own, facts = _prepared(data, batches)
    sides, note = _others(data, facts["num_workers"], device)
    calls = {
        name: partial(_pass, loader, device, facts["examples"]) for name, loader in {"autosample": own, **sides}.items()
    }
    return _timed(calls, facts["examples"], rounds, device), {**facts, "note": note}


def measure_steps(
    data: ClassificationData,
    recipe: Recipe,
    *,
    batches: int = 16,
    rounds: int = 15,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[list[Reading], dict[str, Any]]:
    """Time training steps with their input: a pass reads each batch, and makes a step of SGD with it.

    Args:
        data, batches, rounds, device: as for `measure_input`.
        recipe: the net; it is compared with its dense twin, and the pictures with both nets have the same order.
        dtype: type that the nets compute in; other types than float32 by autocast.

    Returns:
        As `measure_input`.

    Raises:
        AutosampleError: The data cannot be read, or the net cannot be built.
    """
    device = device or torch.device("cpu")
    own, facts = _prepared(data, batches)
    nets = {recipe.preset: recipe.build(), "dense": recipe.bare()}
    calls = {
        name: partial(_pass, own, device, facts["examples"], _step(net.to(device).train(), device, dtype))
        for name, net in nets.items()
    }
    return _timed(calls, facts["examples"], rounds, device), {**facts, "note": f"{recipe.model}, steps of SGD, {dtype}"}


def _prepared(data: ClassificationData, batches: int) -> tuple[Any, dict[str, Any]]:
    """The data's loader of some training examples, and what it reads."""
    train, size = data.examples.train, data.batch_size
    count = min(batches, len(train) // size) * size
    if not count:
        raise DataError(f"bench input needs a whole batch of {size}, got {len(train)} examples: pass --data.batch_size")
    data.examples.train = train[torch.arange(count) * len(train) // count]  # evenly spread over the classes
    own = data.train_dataloader()
    workers = getattr(own, "num_workers", 0)  # a resident set has none
    return own, {
        "examples": count,
        "batch_size": size,
        "num_workers": workers,
        "threads": torch.get_num_threads(),
    }


def _step(net: nn.Module, device: torch.device, dtype: torch.dtype) -> Callable[[Tensor, Tensor], None]:
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()

    return step


def _pass(
    loader: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    count: int,
    use: Callable[[Tensor, Tensor], None] | None = None,
) -> None:
    found = 0
    for x, y in loader:
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        found += len(x)
        if use is not None:
            use(x, y)
    if found != count:
        raise DataError(f"a pass must have {count} examples, got {found}: check the data set")


def _timed(calls: Mapping[str, Callable[[], None]], count: int, rounds: int, device: torch.device) -> list[Reading]:
    timings = time_in_turn(list(calls.values()), rounds=rounds, budget=_BUDGET, device=device)
    first = timings[0]
    return [
        Reading(name, count / t.median, count / t.high, count / t.low, t.rounds, ratio(t, first) if i else None)
        for i, (name, t) in enumerate(zip(calls, timings, strict=True))
    ]


def _others(data: ClassificationData, workers: int, device: torch.device) -> tuple[dict[str, Any], str]:
    """Loaders of torchvision and timm, and why there are none."""
    if not isinstance(data, TimmImages):
        return {}, "torchvision and timm are measured with TimmImages only"
    folder = next((data.root / name for name in PARTS["train"] if is_folder(data.root / name)), None)
    if folder is None:
        return {}, "torchvision and timm are measured where the set's folders are beside it"
    source: Any = read_folders(data.root, allow_outside=data.allow_outside).train
    if len(source.labels) != len(data._parts.train.labels):
        return {}, "torchvision and timm are not measured, as the folders beside the set have other pictures"
    files = [(os.fsdecode(source.paths[row]), int(source.labels[row])) for row in data.examples.train.tolist()]
    pin = device.type == "cuda"
    plain = ImageFolder(folder, transform=data._train_transform())
    plain.samples = files
    common: dict[str, Any] = {"batch_size": data.batch_size, "num_workers": workers, "pin_memory": pin}
    return {
        "torchvision": DataLoader(plain, shuffle=True, persistent_workers=workers > 0, **common),
        "timm": _timm(data, folder, files, data._train_transform(), device=device, use_prefetcher=False, **common),
        "timm prefetch": _timm(data, folder, files, None, device=device, use_prefetcher=True, **common),
    }, ""


def _timm(
    data: TimmImages, folder: Path, files: list[tuple[str, int]], transform: Callable[..., Any] | None, **options: Any
) -> Any:
    """timm's loader, with the set's own transform or with one that timm makes for the same options."""
    dataset: Any = ImageDataset(str(folder))
    dataset.reader.samples = files
    look = {"mean": data.mean, "std": data.std, **data.augmentation}
    loader = create_loader(dataset, data.image_size, is_training=True, **look, **options)
    if transform is not None:
        dataset.transform = transform
    return loader
