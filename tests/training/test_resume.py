"""Stopping and going on gives the very numbers of going straight through."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint


class Stop(pl.Callback):
    """Ends the training after the second epoch."""

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            trainer.should_stop = True


PRESETS = {"autosample": {}, "nes": {}, "random": {}, "kmeans": {"rule": "categorical"}, "strassen": {}}
QUICK = (("nes", 0.3), ("autosample", 0.8), ("strassen", 0.8))


CASES = [
    pytest.param(preset, at, marks=[] if (preset, at) in QUICK else pytest.mark.slow)
    for preset in PRESETS
    for at in (0.3, 0.8)  # frozen before, and after the break
]


@pytest.mark.parametrize(("preset", "freeze_at"), CASES)
def test_resuming_is_bit_equal(classifier, digits, trainer, tmp_path, preset, freeze_at):
    learned = {} if preset == "random" else {"options": {"freeze_at": freeze_at}}
    if preset == "strassen":  # ternary before the break
        learned["options"]["ternary_at"] = 0.3
    options = {"spec": preset, "spec_args": {**PRESETS[preset], **learned}, "mixup": 0.2}
    short = {"max_epochs": 4, "limit_train_batches": 3}

    def keep():
        return ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)

    straight = classifier(**options)
    start = {name: tensor.clone() for name, tensor in straight.state_dict().items()}
    trainer(**short).fit(straight, datamodule=digits())

    first = classifier(**options)
    first.load_state_dict(start)
    trainer(**short, enable_checkpointing=True, callbacks=[keep(), Stop()]).fit(first, datamodule=digits())
    assert first.trainer.global_step == 6

    torch.manual_seed(99)  # what came before must not matter
    second = classifier(**options)
    trainer(**short, enable_checkpointing=True, callbacks=[keep()]).fit(
        second, datamodule=digits(), ckpt_path=tmp_path / "epoch=1.ckpt"
    )
    assert second.trainer.global_step == 12
    expected = straight.state_dict()
    for name, tensor in second.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
