"""Measurements of plans, cached between processes."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch

from autosample.system.files import user_cache, write_json
from autosample.system.machine import processor


def signature(device: torch.device, dtype: torch.dtype, *others: object) -> str:
    """A short key for a measurement that depends on the machine, on torch, and on more."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    parts = (name, torch.get_num_threads(), torch.__version__, str(dtype), *others)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def cache_file() -> Path:
    """The folder of measurements: `AUTOSAMPLE_CACHE`, or `~/.cache/autosample`."""
    given = os.environ.get("AUTOSAMPLE_CACHE")
    return (Path(given).expanduser() if given else user_cache() / "autosample") / "plans.json"


def remembered(key: str, kinds: list[str], measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The measurement cached under `key`, or a new one, which is then cached. Unusable files are ignored."""
    try:
        path = cache_file()
    except OSError:  # without a home, too
        return measure()
    known = _read(path)
    found = known.get(key)
    if isinstance(found, dict) and all(isinstance(found.get(k), float) and found[k] > 0 for k in kinds):
        return found
    taken = measure()
    with contextlib.suppress(OSError):  # with a read-only home, measure again each time
        write_json(path, {**_read(path), key: taken})
    return taken


def _read(path: Path) -> dict:
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
