"""Fixtures shared by all tests. Everything runs offline."""

import os

import pytest
import torch

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """A clock by which a deployed model takes a nanosecond for each number in it; lists the shapes of the examples."""
    from autosample.budget import latency
    from autosample.system.timing import Timing

    shapes = []

    def time(model: torch.nn.Module, example: torch.Tensor) -> Timing:
        shapes.append(tuple(example.shape))
        seconds = 1e-9 * sum(p.numel() for p in model.parameters())
        return Timing(seconds, seconds, seconds, 30)

    monkeypatch.setattr(latency, "time_deployed", time)
    return shapes


def is_quick(item: pytest.Function, every: pytest.Mark) -> bool:
    """Whether a variant of a test with `every(n, first=0)` is quick.

    Variants are quick on diagonals: of two or more parameters with at least `n` values, every value is tested.
    """
    steps, first = (*every.args, 0)[:2]
    # names that are set together count once
    names = [mark.args[0] for mark in item.iter_markers("parametrize")]
    together = {name for group in names for name in (group.split(",") if isinstance(group, str) else group)[1:]}
    return sum(i for name, i in item.callspec.indices.items() if name not in together) % steps == first


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine lacks: a GPU, real data. Start with the tests that take longest."""
    for item in items:
        if (every := item.get_closest_marker("every")) and not is_quick(item, every):
            item.add_marker("slow")
    items.sort(key=lambda item: not (item.get_closest_marker("ddp") or item.path.stem in ("test_wheel", "test_extras")))
    missing = {
        "gpu": None if torch.cuda.is_available() else "no CUDA device",
        "data": None if os.environ.get("AUTOSAMPLE_DATA") else "AUTOSAMPLE_DATA is not set",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def kernel() -> None:
    """Skips where the fused kernel cannot be built; builds it where it has not been yet."""
    from autosample.reuse import fused

    if why := fused.why_not():
        pytest.skip(why)
