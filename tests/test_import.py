"""What importing and asking for help cost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import autosample

# what neither `import autosample` nor the command line's overview needs
UNUSED = ("torch", "numpy", "rich", "pytorch_lightning", "lightning_fabric", "jsonargparse", "timm", "torchvision")
# what only the laboratory and training need
HEAVY = (
    "pytorch_lightning", "lightning_fabric", "timm", "torchvision", "torchmetrics", "wandb", "matplotlib", "rich",
    "jsonargparse", "scipy", "sklearn", "ray", "onnx",
)  # fmt: skip


def loaded(code: str, names: tuple[str, ...]) -> list[str]:
    """Which of the modules a fresh process has imported after running `code`."""
    code = f"import sys\n{code}\nprint([name for name in {names} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stderr.splitlines()[-1].replace("'", '"'))


def test_importing_the_package_imports_no_other():
    assert loaded("import autosample", UNUSED) == []


def test_the_library_leaves_training_and_plotting_alone():
    uses = "autosample." + "; autosample.".join(autosample.__all__)
    assert loaded(f"import autosample; {uses}", HEAVY) == []


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_take_half_a_second_at_most(option):
    """User and system time of the whole process, the interpreter's start included; the least of three."""
    code = (
        "import resource, subprocess, sys\n"
        f"done = subprocess.run([sys.executable, '-m', 'autosample', {option!r}], check=True, capture_output=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "assert done.stdout\n"
        "print(used.ru_utime + used.ru_stime)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    assert min(float(run.stdout) for run in runs) < 0.5
    assert loaded(f"from autosample.cli.main import main; main([{option!r}])", UNUSED) == []


@pytest.mark.parametrize("verb", ["ablate", "card", "quantize", "quickstart", "report"])
def test_help_of_a_verb_imports_nothing_that_it_does_not_need(verb):
    assert loaded(f"from autosample.cli.main import main; main([{verb!r}, '--help'])", UNUSED) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "needed"),
    [
        ("export", ("torch", "numpy")),  # the formats tell what they are
        ("bench", ("torch", "numpy", "rich")),  # and so do the suites
    ],
)
def test_help_of_other_verbs_imports_no_training(verb, needed):
    others = tuple(name for name in (*UNUSED, *HEAVY) if name not in needed)
    assert loaded(f"from autosample.cli.main import main; main([{verb!r}, '--help'])", others) == []


def test_every_name_is_there_and_nothing_else():
    assert set(autosample.__all__) <= set(dir(autosample))
    for name in autosample.__all__:
        assert getattr(autosample, name) is not None
    assert autosample.nn.__name__ == "autosample.nn"
    with pytest.raises(AttributeError, match="no attribute 'convrt'"):
        autosample.convrt  # noqa: B018


def test_type_checkers_see_the_names_that_there_are():
    text = Path(autosample.__file__).read_text()
    for name in autosample.__all__:
        assert f"import {name} as {name}" in text
