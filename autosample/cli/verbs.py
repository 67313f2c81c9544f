"""The verbs of the command line. Help, dispatch and suggestions are made from this table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from autosample.errors import ConfigError, hint
from autosample.system.extras import require


@dataclass(frozen=True)
class Verb:
    """A verb.

    Attributes:
        place: `module:function`. The function takes all words of the command line, the verb first.
        about: One line for the overview.
        extra: The extra of autosample without which it cannot run; empty if it needs none.
    """

    place: str
    about: str
    extra: str = ""

    def load(self) -> Callable[[Sequence[str]], None]:
        """The function that runs the verb.

        Raises:
            MissingExtra: The verb's extra is not installed.
        """
        if self.extra:
            require(self.extra)
        module, _, function = self.place.partition(":")
        return getattr(import_module(module), function)


VERBS = {
    "quickstart": Verb(
        "autosample.cli.quickstart:main",
        "train the bundled digits dense and with three presets; a table and pictures",
        "ablate",
    ),
    "ablate": Verb(
        "autosample.cli.ablate:main",
        "run a grid of presets, sizes and seeds: autosample ablate ablation/quick [--jobs 2]",
        "ablate",
    ),
    "report": Verb(
        "autosample.cli.report:main",
        "what a model would store: autosample report resnet18 --spec autosample --ratio 8",
    ),
    "quantize": Verb(
        "autosample.cli.quantize:main",
        "fewer bits for a saved model or a checkpoint: autosample quantize DIR_OR_CKPT --bits 8 --out DIR",
    ),
    "card": Verb("autosample.cli.card:main", "the model card of a saved model: autosample card DIR [--write]"),
    "export": Verb(
        "autosample.cli.export:main",
        "a file for other runtimes: autosample export DIR_OR_CKPT --format onnx|onnx-int8|pt2|artifact --out FILE",
    ),
    "bench": Verb(
        "autosample.cli.bench:main",
        "how fast it runs: autosample bench layers models, or --model resnet18 --ratio 6 --input 3 224 224",
        "ablate",
    ),
    "fit": Verb(
        "autosample.cli.fit:main", "train: autosample fit --config experiment/digits [--model.ratio 16 …]", "train"
    ),
    "validate": Verb(
        "autosample.cli.fit:main", "evaluate a checkpoint on the validation set: … validate --config C --ckpt_path F",
        "train",
    ),
    "test": Verb("autosample.cli.fit:main", "… and on the test set", "train"),
    "predict": Verb(
        "autosample.cli.predict:main",
        "… and write predictions.csv; of files, with a saved model: autosample predict DIR FILE…",
        "train",
    ),
}  # fmt: skip

_FRAME = """usage: autosample VERB [options]

{verbs}

`autosample VERB --help` lists the options of a verb. --config takes a file or the name of one that comes with
autosample; several compose from left to right. Mistakes end with one line on standard error and exit code 2.
"""


def overview() -> str:
    """The help text of the command line."""
    width = max(map(len, VERBS)) + 2
    return _FRAME.format(verbs="\n".join(f"  {name:<{width}} {verb.about}" for name, verb in VERBS.items()))


def run(args: Sequence[str]) -> None:
    """Run the verb that comes first in `args`.

    Raises:
        AutosampleError: There is no such verb, its extra is not installed, or something given is not usable.
    """
    if args[0] not in VERBS:
        raise ConfigError(f'no verb is called "{args[0]}": {hint(args[0], VERBS)}')
    VERBS[args[0]].load()(args)
