"""Trainings of the recipes, cut short by flags alone: killed and resumed, in two processes, on CIFAR-10 and ESC-10."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from realrun.running import Place, fit, last, logged, wait_for_step

IMAGENET, SOUNDS = "imagenet_resnet50", "esc50_soundnet8"
BATCHES, EPOCHS, EVERY = 24, 2, 7  # of the training that is killed
STEPS = 6  # of those in one and in two processes
SOUND_EPOCHS = 5
# how the sounds are trained: the recipe's own layers, and one-line overlays
OVERLAYS = {"autosample": [], "folded": ["--config", "spec/folded"], "dense": ["--config", "spec/dense"]}


def resumed(place: Place) -> dict[str, Any]:
    """The ImageNet recipe, killed within an epoch and resumed, against a run without a break; folders and shards."""
    limits = ["--model.num_classes", place.classes, "--data.image_size", 64, "--data.batch_size", 8]
    limits += ["--data.num_workers", 1, "--trainer.max_epochs", EPOCHS, "--trainer.limit_train_batches", BATCHES]
    limits += ["--trainer.limit_val_batches", 4, "--trainer.limit_test_batches", 4]
    every = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.filename", "last"]
    every += ["--trainer.callbacks.every_n_train_steps", EVERY, "--trainer.callbacks.enable_version_counter", "false"]
    kept = {"folder": (place.pictures, []), "shards": (place.shards, ["--data.name", "wds"])}
    rows, wanted = [], {}
    for kind, (root, options) in kept.items():
        for killed in (False, True):
            name = f"{kind}-{'killed' if killed else 'whole'}"
            runs = place.fresh(name)
            words = fit(IMAGENET, root, runs, [*options, *limits, *every])
            row: dict[str, Any] = {"kept": kind, "killed": killed}
            if killed:
                row |= {"kill": _kill(place, name, words, runs)}
                words += ["--ckpt_path", "last"]
            place.run(name, words)
            found = _ended(runs)
            wanted = wanted or found
            rows.append({**row, "losses": found["losses"], "steps": found["steps"], "equal": _equal(found, wanted)})
    flags = {"image_size": 64, "batch": 8, "batches": BATCHES, "epochs": EPOCHS, "every": EVERY}
    return {"seed": 0, **flags, "rows": rows}


def _kill(place: Place, name: str, words: list[object], runs: Path) -> dict[str, int]:
    """Kill a training by SIGKILL after a checkpoint in the middle of its last epoch; gives that checkpoint's step."""
    process = place.start(name, words)
    reached = wait_for_step(runs, BATCHES + 1, process)
    process.kill()
    process.wait()
    step = last(runs)["global_step"]
    assert step % BATCHES, "killed between two epochs"
    return {"seen": reached, "step": step, "batch_of_epoch": step % BATCHES}


def _ended(runs: Path) -> dict[str, Any]:
    """What a training ends with: tensors by their names, and what it has logged."""
    saved = last(runs)
    names = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers")
    parts = {name: dict(_tensors(saved[name])) for name in names if name in saved}
    losses = {name: logged(runs, name) for name in ("train/loss", "train/acc", "val/loss", "test/loss")}
    return {"parts": parts, "losses": losses, "steps": saved["global_step"]}


def _tensors(state: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All numbers and tensors of nested dicts and lists, with names."""
    if isinstance(state, dict | list | tuple):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from _tensors(value, f"{name}.{key}")
    else:
        yield name, state


def _equal(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, bool]:
    """Which parts are the same to the bit."""
    same = {
        name: part.keys() == wanted["parts"][name].keys()
        and all(_same(value, wanted["parts"][name][key]) for key, value in part.items())
        for name, part in found["parts"].items()
    }
    return {**same, **{name: values == wanted["losses"][name] for name, values in found["losses"].items()}}


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


def processes(place: Place) -> dict[str, Any]:
    """The recipe in two gloo processes against one with the same global batch.

    Norms of groups take the place of batch norms, and what draws random numbers for a whole batch (mixing, stochastic
    depth) is off. Augmentation of pictures stays as it is. Validation is off: there Lightning swaps weights with their
    average, which is float32.
    """
    flags = ["--model.num_classes", place.classes, "--model.model", "resnet50_gn", "--data.image_size", 64]
    flags += ["--data.num_workers", 0, "--model.mixup", 0, "--model.cutmix", 0, "--model.model_args.drop_path_rate", 0]
    flags += ["--trainer.max_epochs", 1, "--trainer.limit_train_batches", STEPS, "--trainer.limit_val_batches", 0]
    flags += ["--test_after_fit", "false"]
    one = ["--data.batch_size", 8]
    two = ["--data.batch_size", 4, "--trainer.devices", 2, "--trainer.strategy", "ddp"]
    rows = []
    for precision in ("32-true", "64-true"):
        ends, losses = [], []
        for count, options in (("one", one), ("two", two)):
            name = f"{count}-{precision[:2]}"
            runs = place.fresh(name)
            words = fit(IMAGENET, place.pictures, runs, [*flags, *options, "--trainer.precision", precision])
            place.run(name, words)
            ends.append(last(runs))
            losses += logged(runs, "train/loss")
        first, second = (dict(_tensors(end["optimizer_states"])) for end in ends)
        apart = {
            "weights": _apart(*(end["current_model_state"] for end in ends)),
            "moments": _apart(*({k: v for k, v in part.items() if k.endswith("exp_avg")} for part in (first, second))),
            "loss": abs(losses[1] / losses[0] - 1),
        }
        rows.append({"precision": precision, "steps": ends[1]["global_step"], "losses": losses, "apart": apart})
    return {"seed": 0, "model": "resnet50_gn", "image_size": 64, "global_batch": 8, "rows": rows}


def _apart(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The largest relative difference of two tensors of the same name, by their norms."""
    sizes = {name: tensor.double().norm() for name, tensor in first.items() if tensor.is_floating_point()}
    return max(float((first[n].double() - second[n].double()).norm() / size) for n, size in sizes.items() if size)


def cifar10(place: Place) -> dict[str, Any]:
    """CIFAR-10 through the ImageNet recipe at 32 px."""
    root, runs = place.out / "cifar10", place.fresh("cifar10")
    root.mkdir(exist_ok=True)
    for part, name in (("train", "train"), ("val", "test")):  # the set has ImageNet's layout, but for this name
        link = root / part
        if not link.is_symlink():
            link.symlink_to(place.data / "cifar10" / name)
    batches, batch = (10, 64) if place.small else (300, 64)
    flags = ["--model.num_classes", 10, "--data.image_size", 32, "--data.crop_pct", 1, "--data.batch_size", batch]
    flags += ["--data.num_workers", 1, "--data.num_aug_repeats", 0, "--trainer.callbacks.decay", 0.98]
    flags += ["--model.lr", 2e-3, "--model.warmup", 0.1, "--trainer.max_epochs", 1]
    flags += ["--trainer.limit_train_batches", batches, "--trainer.limit_val_batches", 0]
    place.run("cifar10", fit(IMAGENET, root, runs, flags))
    (reached,) = logged(runs, "test/acc")
    seen = {"pictures": batches * batch, "image_size": 32, "batch": batch, "steps": last(runs)["global_step"]}
    return {"seed": 0, "model": "resnet50", **seen, "accuracy": 100 * reached, "chance": 10.0, "tested_on": 10_000}


def esc10(spec: str, place: Place) -> dict[str, Any]:
    """ESC-10 through the recipe of ESC-50, five folds, with the layers of a spec."""
    epochs, rows = 1 if place.small else SOUND_EPOCHS, []
    flags = [*OVERLAYS[spec], "--data.esc10", "true", "--model.num_classes", 10, "--trainer.callbacks.decay", 0.9]
    for fold in range(1, 6):
        runs = place.out / "runs" / f"esc10-{spec}-{fold}"
        words = fit(SOUNDS, place.data / "ESC-10", runs, [*flags, "--data.fold", fold, "--trainer.max_epochs", epochs])
        if logged(runs, "test/acc"):  # this script was stopped after this fold
            place.tell(words)
        else:
            place.run(runs.name, words)
        (reached,) = logged(runs, "test/acc")
        size = logged(runs, "size/stored_bytes")[0]
        rows.append({"fold": fold, "accuracy": 100 * reached, "stored_bytes": int(size)})
    return {"seed": 0, "model": "soundnet8", "spec": spec, "epochs": epochs, "chance": 10.0, "rows": rows}
