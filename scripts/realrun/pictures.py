"""The drawn set: 20,160 pictures in 64 classes, as folders, tar files and shards; and what its workers need."""

import os
from typing import Any

from autosample.data.sets.timm_images import TimmImages
from autosample.system.configs import read
from realrun.running import Place, children, core_seconds, memory

# shares of an epoch after which memory is looked at
MARKS = (0.1, 0.5, 1.0)
WORKERS, BATCH = 2, 32


def draw(place: Place) -> dict[str, Any]:
    """Draw the set, pack it into tar files, and write shards of it."""
    counts = (place.classes, 40, 10) if place.small else (place.classes, 290, 25)
    sizes = [word for pair in zip(("--classes", "--train", "--val"), counts, strict=True) for word in pair]
    seconds = {}
    for name, words in (
        ("pictures", ["scripts/make_pictures.py", place.pictures, *sizes, "--tar"]),
        ("shards", ["shard", place.pictures, place.shards]),
        ("check", ["shard", place.shards, "--check"]),
    ):
        before = core_seconds()
        place.run(name, words)
        seconds[name] = round(core_seconds() - before, 1)
    files = [path for part in ("train", "val") for path in (place.pictures / part).glob("*/*.JPEG")]
    packed = {"tar": list(place.pictures.glob("*.tar")), "shards": list(place.shards.glob("*.tar"))}
    return {
        "seed": 0,
        "classes": place.classes,
        "size": 224,
        "pictures": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "packed": {
            kind: {"files": len(paths), "bytes": sum(p.stat().st_size for p in paths)} for kind, paths in packed.items()
        },
        "core_seconds": seconds,
    }


def flat_memory(place: Place) -> dict[str, Any]:
    """Memory of the workers while they read each file of the training part once, with the recipe's transforms."""
    options = dict(read("experiment/imagenet_resnet50")["data"]["init_args"])
    options |= {"batch_size": BATCH, "num_workers": WORKERS, "num_aug_repeats": 0, "drop_last": False}
    rows = []
    for kind, root, name in (("folder", place.pictures, ""), ("shards", place.shards, "wds")):
        data = TimmImages(**{**options, "root": str(root), "name": name})
        rows.append({"kept": kind, "pictures": data.sizes["train"], "marks": _watched(data)})
    return {"seed": 0, "workers": WORKERS, "batch": BATCH, "image_size": 224, "rows": rows}


def _watched(data: TimmImages) -> list[dict[str, Any]]:
    """Memory of each worker and of this process after parts of an epoch."""
    before, found = set(children()), []
    loader = data.train_dataloader()
    at = {max(round(share * len(loader)), 1): share for share in MARKS}
    for done, _ in enumerate(loader, 1):
        if done in at:
            workers = [memory(pid) for pid in children() if pid not in before]
            found.append({"share": at[done], "batches": done, "workers": workers, "main": memory(os.getpid())})
    return found
