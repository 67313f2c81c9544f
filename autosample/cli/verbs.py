"""The table of verbs. The help text, the dispatch and the suggestions come from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from autosample.errors import ConfigError, hint
from autosample.system.extras import require
from autosample.system.plugins import import_modules


@dataclass(frozen=True)
class Verb:
    """A verb.

    Attributes:
        place: `module:function`. The function gets all words of the command line, the verb first.
        about: One line for the overview.
        extra: Extra of autosample that the verb needs; empty for none.
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
        "train a small net on bundled digits, dense and with three presets; makes a table and pictures",
        "ablate",
    ),
    "ablate": Verb(
        "autosample.cli.ablate:main",
        "run a grid of presets, sizes and seeds: autosample ablate ablation/quick [--jobs 2]",
        "ablate",
    ),
    "report": Verb(
        "autosample.cli.report:main",
        "print what a model would store: autosample report resnet18 --spec autosample --ratio 8",
    ),
    "quantize": Verb(
        "autosample.cli.quantize:main",
        "quantise a saved model or a checkpoint: autosample quantize DIR_OR_CKPT --bits 8 --out DIR",
    ),
    "card": Verb("autosample.cli.card:main", "print the model card of a saved model: autosample card DIR [--write]"),
    "export": Verb(
        "autosample.cli.export:main",
        "write a file for other runtimes: autosample export DIR_OR_CKPT --format onnx --out FILE",
    ),
    "bench": Verb(
        "autosample.cli.bench:main",
        "measure speed: autosample bench layers models, or --model resnet18 --ratio 6 --input 3 224 224",
        "ablate",
    ),
    "fit": Verb(
        "autosample.cli.fit:main", "train: autosample fit --config experiment/digits [--model.ratio 16 …]", "train"
    ),
    "generations": Verb(
        "autosample.cli.generations:main",
        "train nets that learn from each other: autosample generations --count 3 --config experiment/digits",
        "train",
    ),
    "validate": Verb(
        "autosample.cli.fit:main", "evaluate a checkpoint on the validation set: … validate --config C --ckpt_path F",
        "train",
    ),
    "test": Verb(
        "autosample.cli.fit:main", "evaluate a checkpoint on the test set: … test --config C --ckpt_path F", "train"
    ),
    "shard": Verb(
        "autosample.cli.shard:main",
        "write a set as webdataset shards: autosample shard SRC OUT; or check them: autosample shard OUT --check",
        "train",
    ),
    "predict": Verb(
        "autosample.cli.predict:main",
        "print classes of files: autosample predict DIR FILE…; or write predictions.csv, with a checkpoint",
        "train",
    ),
}  # fmt: skip

_FRAME = """usage: autosample VERB [options]

{verbs}

`autosample VERB --help` lists the options of a verb. --config takes a file, or the name of a bundled one; you can give
several, and later ones override earlier ones. With --import MODULE, any verb first imports a module of yours, which may
register nets, data sets or rules. On a mistake, one line on standard error explains it, with exit code 2.
"""


def overview() -> str:
    """The help text of the command line."""
    width = max(map(len, VERBS)) + 2
    return _FRAME.format(verbs="\n".join(f"  {name:<{width}} {verb.about}" for name, verb in VERBS.items()))


def run(args: Sequence[str]) -> None:
    """Run the verb that comes first in `args`.

    Raises:
        AutosampleError: The verb does not exist, its extra is not installed, or an option is not usable.
    """
    if args[0] not in VERBS:
        raise ConfigError(f'no verb is called "{args[0]}": {hint(args[0], VERBS)}')
    verb = VERBS[args[0]].load()
    words, modules = _without_imports(args)
    import_modules(modules)
    verb(words)


def _without_imports(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without `--import MODULE`, and the modules."""
    words, modules, rest = [], [], iter(args)
    for word in rest:
        name, equals, value = word.partition("=")
        if name != "--import":
            words.append(word)
        elif module := value if equals else next(rest, ""):
            modules.append(module)
        else:
            raise ConfigError("--import needs the name of a module, got none: write --import mynets")
    return words, modules
