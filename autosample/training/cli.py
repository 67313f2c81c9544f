"""Lightning's command line over our module and data, with a CSV log always and wandb's when asked."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger

import autosample.data  # noqa: F401  (its classes are known to --data by their short names)
from autosample.data import ClassificationData
from autosample.errors import ConfigError
from autosample.training.callbacks import OffsetLog, PredictionFile, SizeReport
from autosample.training.module import Classifier


class AutosampleCLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict` for `Classifier` and any of `autosample.data`."""

    @classmethod
    def start(cls, args: ArgsType = None) -> "AutosampleCLI":
        """Parse, build and run."""
        return cls(
            Classifier,
            ClassificationData,
            subclass_mode_data=True,
            trainer_defaults={"default_root_dir": "runs/fit", "callbacks": _callbacks()},
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"exit_on_error": False},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--name", type=str, default="", help="Name of the run; its folder is made under it.")
        parser.add_argument("--test_after_fit", type=bool, default=True, help="Test the last model after `fit`.")
        parser.link_arguments("seed_everything", "model.seed")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Add the CSV log to whatever loggers the configuration asks for."""
        config = self._get(self.config_init, "trainer", default={})
        asked = config.get("logger")
        if asked is not False and not config.get("fast_dev_run"):
            loggers = list(asked) if isinstance(asked, list | tuple) else [asked] if asked not in (None, True) else []
            if not any(isinstance(logger, CSVLogger) for logger in loggers):
                folder = config.get("default_root_dir") or "runs/fit"
                loggers.insert(0, CSVLogger(folder, name=self._get(self.config, "name") or None))
            kwargs["logger"] = loggers
        return super().instantiate_trainer(**kwargs)

    def after_fit(self) -> None:
        """Test the model as it stands at the end: hardened, on data that no choice was made on."""
        if self._get(self.config, "test_after_fit") and not self.trainer.fast_dev_run:  # pyright: ignore
            self.trainer.test(self.model, datamodule=self.datamodule)
            result = self.model.size_report()
            print(f"stored {result.stored_bytes:,} bytes, {result.ratio:.1f} times smaller than dense")
            print(f"log and checkpoints: {self.trainer.log_dir}")

    def before_validate(self) -> None:
        self._need_checkpoint()

    before_test = before_predict = before_validate

    def _need_checkpoint(self) -> None:
        if not self._get(self.config, "ckpt_path"):
            raise ConfigError(f"{self.subcommand} needs a trained model, got none: pass --ckpt_path FILE.ckpt")


def _callbacks() -> list[pl.Callback]:
    checkpoint = ModelCheckpoint(save_last=True, save_top_k=1, monitor="val/acc", mode="max")
    return [checkpoint, SizeReport(), OffsetLog(), LearningRateMonitor("epoch"), PredictionFile()]
