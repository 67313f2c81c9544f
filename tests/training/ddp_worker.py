"""Run by test_ddp.py: trains one converted net after the other in two processes, each of which saves its state."""

import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch

from autosample.data import Digits
from autosample.training import Classifier

PRESETS = ("autosample", "nes", "wsnet", "kmeans")
AFFORD = {"autosample": {"afford": 10}}


class SaveState(pl.Callback):
    """Saves what each process holds at the end, and the number of its examples of the first batch."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.seen.append(batch[0].double().sum().item())

    def on_train_end(self, trainer, pl_module) -> None:
        state = {"net": pl_module.net.state_dict(), "seen": self.seen, "steps": trainer.global_step}
        torch.save(state, self.folder / f"{trainer.global_rank}.pt")


def main(out: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for preset in PRESETS:
        folder = Path(out) / preset
        folder.mkdir(parents=True)
        changes = {
            **({"rule": "categorical"} if preset == "kmeans" else {}),
            **({} if preset == "wsnet" else {"options": {"freeze_at": 0.5, **AFFORD.get(preset, {})}}),
        }
        # batch norm's statistics are each process's own after the last broadcast: leave it out
        options = {"model": "digitnet", "model_args": {"norm": False}, "ratio": 4, "spec_args": changes}
        trainer = pl.Trainer(
            max_epochs=2,
            limit_train_batches=4,
            limit_val_batches=1,
            accelerator="cpu",
            devices=2,
            strategy="ddp_fork",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[SaveState(folder)],
        )
        trainer.fit(Classifier(spec=preset, **options), datamodule=Digits(batch_size=16))


if __name__ == "__main__":
    main(sys.argv[1])
