"""Measures what few bits cost: `python scripts/measure_quantisation.py DATA_ROOT OUT [NAME …] [--seeds N]`.

Trains each net with `autosample`, quantises it after training, and renews the statistics of its batch norms. Instead,
it is fine-tuned with the levels. The float32 net gets the same fine-tuning, so a gain does not come from more training.
Writes one JSON record per run, and skips runs that have a record. Expected: 2 to 8 minutes per net and seed on one core
of an AMD EPYC.
"""

import argparse
import copy
from datetime import date
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.nn.modules.batchnorm import _BatchNorm

import autosample
from autosample.data import CIFAR10, MNIST, Digits, SpokenDigits
from autosample.experiments.run import train
from autosample.experiments.trainer import NOISY, deterministic_on_cpu
from autosample.system.files import write_json
from autosample.system.machine import hardware
from autosample.system.quiet import quiet
from autosample.training import Classifier, FakeQuantize

LEVELS = [(8, "linear"), (8, "codebook"), (4, "linear"), (4, "codebook"), (3, "linear"), (3, "codebook")]
# data, its options, epochs, epochs of fine-tuning, settings of the classifier
NETS: dict[str, tuple[type, dict[str, Any], int, int, dict[str, Any]]] = {
    "digits": (
        Digits, {"batch_size": 64, "padding": 1, "image_size": 16}, 20, 6,
        {"model": "test_resnet", "in_chans": 1, "ratio": 8, "lr": 4e-3, "weight_decay": 0.05},
    ),
    "mnist": (
        MNIST, {"batch_size": 128, "padding": 2}, 10, 3,
        {"model": "mlp784", "in_chans": 1, "ratio": 8, "lr": 1e-3, "weight_decay": 0.01},
    ),
    "spoken_digits": (
        SpokenDigits, {"batch_size": 32}, 10, 3,
        {"model": "wave4", "ratio": 16, "lr": 3e-3, "weight_decay": 0.01},
    ),
    "cifar10": (
        CIFAR10, {"batch_size": 128, "padding": 4, "flip": True}, 4, 1,
        {"model": "test_resnet", "ratio": 4, "lr": 4e-3, "weight_decay": 0.05},
    ),
}  # fmt: skip


def tuned(model: Classifier, data: pl.LightningDataModule, epochs: int, *callbacks: pl.Callback) -> tuple[float, int]:
    """Accuracy on the test set after more epochs at a tenth of the rate, and the stored bytes."""
    model = copy.deepcopy(model)
    model.hparams["lr"] /= 10
    trainer = trainer_for(epochs, *callbacks)
    trainer.fit(model, datamodule=data)
    return tested(model, data), model.size_report().stored_bytes


def tested(model: Classifier, data: pl.LightningDataModule) -> float:
    return trainer_for(1).test(model, datamodule=data, verbose=False)[0]["test/acc"]


def trainer_for(epochs: int, *callbacks: pl.Callback) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False, devices=1,
        enable_model_summary=False, limit_val_batches=0, num_sanity_val_steps=0, callbacks=list(callbacks),
    )  # fmt: skip


def measure(name: str, root: str, seed: int) -> dict[str, Any]:
    """The record of one net and seed."""
    source, options, epochs, more, settings = NETS[name]
    place = {} if source is Digits else {"root": root}
    data = source(seed=seed, val_fraction=0.0, **place, **options)
    settings = {"num_classes": 10, "spec": "autosample", "seed": seed, **settings}
    model, record = train(data, settings, epochs=epochs)
    rows = []
    with quiet(*NOISY), deterministic_on_cpu():
        float_tuned, _ = tuned(model, data, more)
        for bits, method in LEVELS:
            after = copy.deepcopy(model)
            autosample.quantize_(after.net, bits, method=method)  # pyright: ignore[reportArgumentType]
            fake = FakeQuantize(bits, method, start=0.0)  # pyright: ignore[reportArgumentType]
            fine, stored = tuned(model, data, more, fake)
            row = {"bits": bits, "method": method, "after": tested(after, data), "tuned": fine, "bytes": stored}
            if any(isinstance(m, _BatchNorm) for m in after.modules()):
                autosample.renew_norms_(after.net, data.train_dataloader())
                row["renewed"] = tested(after, data)
            rows.append(row)
    return {
        "net": name, "seed": seed, "epochs": epochs, "more": more, "settings": settings, "data": options,
        "float32": record.accuracy, "float32_tuned": float_tuned, "bytes": record.stored_bytes, "rows": rows,
        "command": "python scripts/measure_quantisation.py DATA_ROOT OUT", "date": date.today().isoformat(),
        "hardware": hardware(), "torch": torch.__version__, "threads": torch.get_num_threads(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root")
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", default=[*NETS])
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        for name in args.names:
            path = args.out / f"{name}-seed{seed}.json"
            if path.exists():
                continue
            record = measure(name, args.root, seed)
            write_json(path, record)
            told = ", ".join(f"{r['bits']} {r['method']} {r['after']:.2%} {r['tuned']:.2%}" for r in record["rows"])
            print(
                f"{path.stem}: float32 {record['float32']:.2%}, tuned {record['float32_tuned']:.2%}; {told}", flush=True
            )


if __name__ == "__main__":
    main()
