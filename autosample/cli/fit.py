"""The verbs `fit`, `validate`, `test` and `predict`: Lightning's command line with our module and data.

There is always a CSV log. If the configuration asks for wandb, there is a wandb log too.
"""

import signal
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import ArgumentError
from pytorch_lightning.cli import ArgsType, LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins import CheckpointIO
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.utilities.exceptions import (
    MisconfigurationException,  # pyright: ignore[reportPrivateImportUsage]
)

import autosample.data  # noqa: F401  (lets --data know its classes by their short names)
from autosample.artifact.checkpoint import local_arguments, read_checkpoint, without_fetching
from autosample.cli.explain import explain, original
from autosample.cli.inputs import check_checkpoint, values_of, with_files
from autosample.data import ClassificationData
from autosample.errors import AutosampleError, ConfigError, one_line
from autosample.model.budget import Budget
from autosample.model.recipe import BUDGETS, FLAT, Recipe
from autosample.system.configs import read
from autosample.training.callbacks import (
    BestCheckpoint,
    LastCheckpoint,
    PredictionFile,
    RateLog,
    SizeReport,
    WaitLog,
)
from autosample.training.checkpoints import WholeCheckpoints
from autosample.training.devices import check_processes
from autosample.training.module import Classifier
from autosample.training.offset_log import OffsetLog
from autosample.training.sharding import check_strategy

# folder of all runs, if none is named
_RUNS = "runs/fit"
# what `fit` trains if no data are named; these options come first, so later ones override them
EMBEDDED = (
    "--data=Digits",
    "--data.image_size=16",
    "--model.model=test_resnet",
    "--model.in_chans=1",
    "--model.ratio=8",
    "--trainer.max_epochs=10",
)
# options that take the place of its ratio
_BUDGETS = tuple(name for name in BUDGETS if name != "input")


class AutosampleCLI(LightningCLI):
    """`fit`, `validate`, `test` and `predict` for `Classifier` and every data set of `autosample.data`."""

    @classmethod
    def start(cls, args: Sequence[str]) -> "AutosampleCLI":
        """Parse the words (the verb, then its options), build everything and run.

        Raises:
            ConfigError: An option, a file or a checkpoint is not usable.
        """
        verb, *options = args
        asks_only = any(option in ("-h", "--help") or option.startswith("--data.help") for option in options)
        if not _names_data(options):
            if verb != "fit" and not asks_only:
                raise ConfigError(f"{verb} needs a data set, got none: pass --config RUN/config.yaml, or --data CLASS")
            sized = any(option.startswith(tuple(f"--model.{name}" for name in _BUDGETS)) for option in options)
            options = [*(word for word in EMBEDDED if not (sized and word.startswith("--model.ratio"))), *options]
        return cls(
            Classifier,
            ClassificationData,
            subclass_mode_data=True,
            trainer_defaults={
                "default_root_dir": _RUNS,
                "max_epochs": 20,
                "enable_model_summary": False,
                "callbacks": _callbacks(),
            },
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False, verb: {"allow_abbrev": False}},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            # always give the seed: _parse_ckpt_path parses without defaults, but the link to model.seed needs a value
            args=[verb, "--seed_everything=0", *options],
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.verb = kwargs["args"][0]
        super().__init__(*args, **kwargs)

    def subcommands(self) -> dict[str, set[str]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The verb that was asked for: describing the options of all four takes a third of a second."""
        return {self.verb: LightningCLI.subcommands()[self.verb]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--name", type=str, default="", help="Name of the run and of its folder.")
        parser.add_argument("--test_after_fit", type=bool, default=True, help="Test the final model after `fit`.")
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("data", "model.input", lambda data: list(data.input_shape), apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the options. A mistake becomes a `ConfigError` of one line."""
        assert isinstance(args, list)
        self.args = args
        try:
            self.config = parser.parse_args(args)
        except (ArgumentError, ValueError) as error:
            if (own := original(error)) is not None:
                raise own from error
            options = list(self._parser(args[0]).get_defaults().keys())
            raise ConfigError(explain(error, [*options, "config", "data", "model", "trainer"])) from error

    def _parse_ckpt_path(self) -> None:
        """Take the model's arguments from the checkpoint, except those that the user gives.

        Raises:
            ConfigError: The user's arguments make a different model than the checkpoint's.
        """
        chosen = self.config[self.config["subcommand"]]
        if chosen.get("ckpt_path") == "last":
            chosen["ckpt_path"] = _last_of(Path(chosen["trainer"]["default_root_dir"] or _RUNS) / chosen["name"])
        path = chosen.get("ckpt_path")
        if not path or not Path(path).is_file():
            return
        saved = read_checkpoint(Path(path), "meta")["hyper_parameters"]
        if "spec" not in saved:  # written by version 0.1.0
            saved = {**saved, **Recipe.of(saved).arguments()}
        given = self.parser.parse_args(self.args, defaults=False)[self.config["subcommand"]].get("model") or {}
        model = chosen["model"]
        if "model" not in given:
            saved = {**saved, "model": local_arguments(saved)["model"]}
        for name, value in saved.items():
            if name not in model:
                continue
            if name not in given or name == "seed":
                model[name] = value
            elif name in (*FLAT, *BUDGETS) and _plain(given[name]) != _plain(value):
                raise ConfigError(
                    f"model.{name} must match the checkpoint, got {given[name]} for a checkpoint with {value}: leave "
                    f"model.{name} out, or pass --config RUN/config.yaml"
                )
        # all weights are in the checkpoint; only the teacher of a training that goes on needs others, named by the user
        model["warm_start"] = False
        if "teacher" not in given:
            model["teacher"] = None
        if self.config["subcommand"] != "fit":
            model["distill"], model["teacher"], model["inherit"] = 0.0, None, None
        if not model["distill"] or "model_args" not in given:
            model["model_args"] = without_fetching(model["model_args"])

    def instantiate_classes(self) -> None:
        """Build data, model and trainer. Lightning wraps our errors in others; the original is raised."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            if (own := original(error)) is not None and own is not error:
                raise own from error
            raise
        if self.model.budget is not None:
            self._settle(self.model.budget)

    def _settle(self, budget: Budget) -> None:
        """Put what a budget was resolved to into `config.yaml`, so that a run that goes on has the same net."""
        if budget.kind == "latency" and self.trainer.world_size > 1:
            raise ConfigError(
                f"latency needs one process, as each would find its own ratio, got {self.trainer.world_size}: pass "
                f"--model.ratio {budget.ratio:.4g} instead"
            )
        chosen = self.config[self.config["subcommand"]]["model"]
        for name in ("ratio", "spec_args", "overrides", *_BUDGETS):
            chosen[name] = self.model.hparams[name]
        if self.trainer.is_global_zero:
            print(budget)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer, with the CSV log beside the loggers asked for, and with checkpoints that are whole."""
        config = self._get(self.config_init, "trainer", default={})
        asked = config.get("logger")
        if asked is not False and not config.get("fast_dev_run"):
            loggers = list(asked) if isinstance(asked, list | tuple) else [asked] if asked not in (None, True) else []
            if not any(isinstance(logger, CSVLogger) for logger in loggers):
                folder = config.get("default_root_dir") or _RUNS
                loggers.insert(0, CSVLogger(folder, name=self._get(self.config, "name") or None))
            kwargs["logger"] = loggers
        plugins = config.get("plugins") or []
        plugins = list(plugins) if isinstance(plugins, list | tuple) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, WholeCheckpoints()]
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ModuleNotFoundError, RuntimeError, ValueError) as error:
            raise ConfigError(f"the trainer does not accept these options: {one_line(error)[:250]}") from error
        check_processes(trainer)
        check_strategy(trainer)
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the verb. If it fails, the processes that this one has started end too, whatever they wait for."""
        try:
            super()._run_subcommand(subcommand)
        except Exception:
            if isinstance(launcher := self.trainer.strategy.launcher, _SubprocessScriptLauncher):
                launcher.kill(signal.SIGKILL)
            raise

    def after_fit(self) -> None:
        """Test the final model, hardened, on the test data."""
        if self._get(self.config, "test_after_fit") and not self.trainer.fast_dev_run:  # pyright: ignore
            self.trainer.test(self.model, datamodule=self.datamodule)
            folder = self.trainer.log_dir  # every process must ask
            if self.trainer.is_global_zero:
                result = self.model.size_report()
                print(f"stored {result.stored_bytes:,} bytes, {result.ratio:.1f} times smaller than dense")
                print(f"log and checkpoints: {folder}")

    def before_validate(self) -> None:
        self._need_checkpoint()

    before_test = before_predict = before_validate

    def _need_checkpoint(self) -> None:
        if not self._get(self.config, "ckpt_path"):
            raise ConfigError(f"{self.subcommand} needs a trained model, got none: pass --ckpt_path FILE.ckpt")


def _last_of(folder: Path) -> str | None:
    """The newest `last.ckpt` of the runs in a folder; `None` before the first one, so a command can start again."""
    found = folder.glob("version_*/checkpoints/last.ckpt")
    newest = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
    return None if newest is None else str(newest)


def _plain(value: Any) -> Any:
    """An argument as it counts for the net: without what fetches weights."""
    return without_fetching(value) if isinstance(value, dict) else value


def _callbacks() -> list[pl.Callback]:
    kept = [BestCheckpoint(), LastCheckpoint()]
    return [*kept, SizeReport(), OffsetLog(), RateLog(), WaitLog(), PredictionFile()]


def _names_data(options: Sequence[str]) -> bool:
    """Whether an option or a configuration file names the data."""
    named = {option.partition("=")[0] for option in options}
    if named & {"--data", "--data.class_path"}:
        return True
    return any("data" in read(name) for name in values_of(("--config", "-c"), options))


def main(args: Sequence[str]) -> None:
    """Run `fit`, `validate`, `test` or `predict`; see `run`."""
    run(args)


def run(args: Sequence[str]) -> AutosampleCLI:
    """Run `fit`, `validate`, `test` or `predict`. The result has the trainer, the model and the data.

    Raises:
        AutosampleError: An option, a file or a checkpoint is not usable.
    """
    args = with_files(args)
    for name in values_of(("--ckpt_path",), args):
        check_checkpoint(Path(name))
    try:
        return AutosampleCLI.start(args)
    except AutosampleError:
        raise
    except Exception as error:
        if not _restores(error):
            raise
        raise ConfigError(
            f"the checkpoint does not fit this configuration: {type(error).__name__}: {one_line(error)[:150]}: pass "
            "--config RUN/config.yaml, or another checkpoint"
        ) from error


def _restores(error: Exception) -> bool:
    """Whether Lightning raised this error, of any type, while it gave the state in a checkpoint to its parts."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(
        f.f_code.co_name.startswith(("restore", "_restore")) and "checkpoint" in f.f_code.co_filename for f, _ in frames
    )
