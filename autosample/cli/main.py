"""The command line: Lightning's `fit`, `validate`, `test` and `predict`, and verbs of our own."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autosample.cli.explain import explain
from autosample.errors import AutosampleError, ConfigError, hint, one_line

HELP = """usage: autosample VERB [options]

  quickstart   train the bundled digits dense and with three sampling rules; a table and two pictures
  ablate       run a grid of presets, sizes and seeds: autosample ablate ablation/quick [--jobs 2]
  report       what a model would store: autosample report resnet18 --summary autosample --ratio 8
  quantize     fewer bits for a saved model or a checkpoint: autosample quantize DIR_OR_CKPT --bits 8 --out DIR
  card         the model card of a saved model: autosample card DIR [--write true]
  export       a file for other runtimes: autosample export DIR_OR_CKPT --format onnx|onnx-int8|pt2|artifact --out FILE
  bench        how fast it runs: autosample bench layers models, or --model resnet18 --ratio 6 --input 3 224 224
  fit          train:    autosample fit --config autosample/configs/experiment/digits.yaml [--model.ratio 16 …]
  validate     evaluate a checkpoint on the validation set: … validate --config C --ckpt_path F
  test         … and on the test set
  predict      … and write predictions.csv; of files, with a saved model: autosample predict DIR FILE…

`autosample VERB --help` lists the options of a verb; several --config files compose from left to right.
Mistakes end with one line on standard error and exit code 2.
"""

LIGHTNING_VERBS = ("fit", "validate", "test", "predict")


def report(
    model: str,
    summary: str = "autosample",
    ratio: float | None = 8,
    num_classes: int = 10,
    in_chans: int | None = None,
    input: list[int] | None = None,
    include: list[str] | None = None,
    exclude: list[str] | None = None,
    out: Path | None = None,
) -> None:
    """Print what a model stores, layer by layer.

    Args:
        model: Name of a timm model or of one of autosample's nets.
        summary: Preset.
        ratio: Dense weights per stored number.
        num_classes: Classes.
        in_chans: Input channels.
        input: Shape of one example without the batch, to count multiply-adds; by default the model's own.
        include: Rules of the layers to convert.
        exclude: Rules of the layers to leave dense.
        out: Folder for report.json, report.csv and report.md.
    """
    import torch
    from rich.console import Console

    import autosample
    from autosample.model.report import save_report
    from autosample.models import create

    net = create(model, num_classes=num_classes, in_chans=in_chans)
    autosample.convert_(net, summary, ratio=ratio, include=include, exclude=exclude)
    shape = input or list(getattr(net, "pretrained_cfg", {}).get("input_size", ()))
    result = autosample.report(net, torch.zeros(1, *shape) if shape else None)
    Console(width=None if sys.stdout.isatty() else 160).print(result)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        save_report(result, out)


def main(args: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code: 0, or 2 after a mistake that one line on standard error explains."""
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if args[0] == "--version":
        from autosample import __version__

        print(f"autosample {__version__}")
        return 0
    try:
        with _quiet():
            _run(args)
    except AutosampleError as error:
        print(f"autosample: error: {one_line(error)}", file=sys.stderr)
        return 2
    except SystemExit as done:  # --help and --print_config
        return int(done.code or 0)
    except KeyboardInterrupt:
        return 130
    return 0


def _run(args: list[str]) -> None:
    if args[0] == "report":
        _call(report, args)
    elif args[0] in ("quantize", "card"):
        from autosample.cli import artifacts as verbs

        _call(getattr(verbs, args[0]), args)
    elif args[0] == "quickstart":
        from autosample.cli.quickstart import quickstart

        _call(quickstart, args)
    elif args[0] == "bench":
        from autosample.cli.bench import add_arguments, bench

        _call(bench, args, add_arguments)
    elif args[0] == "ablate":
        from autosample.cli.ablate import main as ablate

        ablate(args[1:])
    elif args[0] == "export":
        from autosample.cli.export import export

        _call(export, args)
    elif args[0] == "predict" and len(args) > 1 and not args[1].startswith("-"):  # Lightning's has options only
        from autosample.cli.predict import add_arguments, predict

        _call(predict, args, add_arguments)
    elif args[0] in LIGHTNING_VERBS:
        _lightning(args)
    else:
        known = ["ablate", "quickstart", "report", "quantize", "card", "export", "bench", *LIGHTNING_VERBS]
        raise ConfigError(f'no verb is called "{args[0]}": {hint(args[0], known)}')


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide notices of libraries that a user of this command line can do nothing about."""
    os.environ.setdefault("WANDB_SILENT", "true")
    loggers = [logging.getLogger(name) for name in _NOTICES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(pytorch_lightning|torch|torchmetrics|lightning_fabric)\.")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


# what hardware there is, which plug-ins there might be, and which seed was set
_NOTICES = ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.seed")


def _call(verb: Callable[..., Any], args: list[str], add: Callable[[Any], None] | None = None) -> None:
    """Parse the options of a verb, by default those of its signature, and call it."""
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(
        prog=f"autosample {args[0]}", description=verb.__doc__, exit_on_error=False, allow_abbrev=False
    )
    if add is None:
        parser.add_function_arguments(verb, as_positional=True)
    else:
        add(parser)
    try:
        values = parser.parse_args(args[1:]).as_dict()
    except ArgumentError as error:
        raise ConfigError(explain(error, parser.get_defaults().keys())) from error
    verb(**values)


def _lightning(args: list[str]) -> None:
    _check_files(args)
    from autosample.cli.fit import AutosampleCLI

    try:
        AutosampleCLI.start(args)
    except RuntimeError as error:
        if "loading state_dict" in str(error):
            raise ConfigError(
                f"a checkpoint must come from a model of the same configuration, got one that differs: "
                f"{one_line(error)[:300]}: pass the --config that the run wrote beside its log"
            ) from error
        raise


def _check_files(args: list[str]) -> None:
    """Files named on the command line must exist and be readable, before minutes go into loading data."""
    for flag, check in (("--config", _check_config), ("-c", _check_config), ("--ckpt_path", _check_checkpoint)):
        for i, arg in enumerate(args):
            value = arg.partition("=")[2] if arg.startswith(f"{flag}=") else None
            if arg == flag and i + 1 < len(args):
                value = args[i + 1]
            if value is not None:
                check(Path(value))


def _check_config(path: Path) -> None:
    import yaml

    if not path.is_file():
        known = [str(p) for p in Path("autosample/configs").rglob("*.yaml")]
        raise ConfigError(f"a config must be a file, got {path}: {hint(str(path), known, otherwise='check the path')}")
    try:
        loaded = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"a config must be valid YAML, got {path}: {one_line(error)}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"a config must hold sections such as model: and data:, got {path}: see configs/")


def _check_checkpoint(path: Path) -> None:
    import torch

    if str(path) in ("best", "last", "hpc"):  # Lightning's own words
        return
    if not path.is_file():
        raise ConfigError(f"a checkpoint must be a file, got {path}: look for *.ckpt in the folder of the run")
    try:
        loaded = torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:  # whatever a broken archive makes torch raise
        raise ConfigError(f"a checkpoint must be readable, got {path}: {one_line(error)[:200]}: use another") from error
    if not isinstance(loaded, dict) or not {"state_dict", "hyper_parameters"} <= loaded.keys():
        raise ConfigError(f"a checkpoint must be one that `autosample fit` wrote, got {path}: use another")


if __name__ == "__main__":
    sys.exit(main())
