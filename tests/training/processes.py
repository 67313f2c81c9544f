"""Run by test_processes.py, in two processes: Lightning starts this file again for the second.

First the verbs `fit` and `predict`, as users call them, then nets of the presets on the command line, whose state each
process saves.
"""

import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch

from autosample.cli.main import main
from autosample.data import Digits
from autosample.training import Classifier

PRESETS = ("autosample", "dfsnet", "nes", "wsnet", "kmeans")
AFFORD = {"autosample": {"afford": 10}}
DDP = ("--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.accelerator=cpu")
FIT = (
    "fit",
    "--config=experiment/digits",
    "--config=quantize/int8",
    "--model.model=digitnet",
    "--model.spec_args={options: {afford: 10, freeze_at: 0.5}}",
    "--trainer.max_epochs=1",
)


def options(verb: str, log: Path) -> tuple[str, ...]:
    """The command for a trained run, by the folder of its log."""
    (checkpoint,) = log.rglob("last.ckpt")
    return (verb, f"--config={log / 'config.yaml'}", f"--ckpt_path={checkpoint}")


class SaveState(pl.Callback):
    """Saves what each process holds at the end, and the number of its examples of the first batch."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.seen.append(batch[0].double().sum().item())

    def on_fit_end(self, trainer, pl_module) -> None:
        state = {"net": pl_module.net.state_dict(), "seen": self.seen, "steps": trainer.global_step}
        torch.save(state, self.folder / f"{trainer.global_rank}.pt")


def train(preset: str, folder: Path) -> None:
    """Train a net of a preset; learned offsets freeze in the middle, so parameters fall out of use."""
    folder.mkdir(parents=True, exist_ok=True)
    changes = {
        **({"rule": "categorical"} if preset == "kmeans" else {}),
        **({} if preset == "wsnet" else {"options": {"freeze_at": 0.5, **AFFORD.get(preset, {})}}),
    }
    trainer = pl.Trainer(
        max_epochs=2,
        limit_train_batches=4,
        limit_val_batches=0,  # validation would make the buffers of all processes equal
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[SaveState(folder)],
    )
    trainer.fit(Classifier("digitnet", ratio=4, spec=preset, spec_args=changes), datamodule=Digits(batch_size=16))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main([*FIT, *DDP])
    main([*options("predict", Path("runs/fit/digits/version_0")), *DDP])
    for name in sys.argv[1:]:
        train(name, Path(name))
    print("done", file=sys.stderr)
