"""The wheel works without a checkout: it holds configurations and the kernel's sources, and needs no extra."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from blocking import EXTRA_MODULES, VERB, without_extras
from test_extras import BASE

from autosample.system.configs import FOLDER, names

ROOT = Path(__file__).parents[1]
FIT = (
    "fit", "--config", "experiment/digits", "--config=spec/wsnet", "--model.model=digitnet", "--model.ratio=8",
    "--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1",
)  # fmt: skip


def run(*command: object, **options) -> subprocess.CompletedProcess:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}: {done.stdout[-1000:]} {done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, built without network."""
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out, cwd=ROOT)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> dict[str, str]:
    """An environment whose `autosample` is the wheel's; this environment's packages serve as its dependencies."""
    target = tmp_path_factory.mktemp("site")
    install = ("uv", "pip", "install", "--offline", "--no-deps", "--quiet", "--target", target, wheel)
    run(sys.executable, "-m", *install)
    # without the fused kernel, whose build takes longer than all of this
    return {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1", "AUTOSAMPLE_FUSED": "0"}


def test_what_it_holds(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {f"autosample/configs/{name}.yaml" for name in names()} <= held
    sources = (ROOT / "autosample").rglob("csrc/*")
    assert {path.relative_to(ROOT).as_posix() for path in sources} <= held
    assert "autosample/py.typed" in held
    assert {name.partition("/")[0].partition("-")[0] for name in held} == {"autosample"}


def test_it_converts_saves_and_loads_without_extras(installed, tmp_path):
    where = "import autosample, os; assert autosample.__file__.startswith(os.environ['PYTHONPATH'])\n"
    done = without_extras(where + BASE, cwd=tmp_path, env=installed)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("pip install 'autosample[export]'\n")
    assert {path.name for path in tmp_path.iterdir()} == {"saved", "small", "again", "report"}
    done = without_extras(VERB, *FIT, cwd=tmp_path, env=installed)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_configurations_are_found_by_name(installed, tmp_path):
    code = (
        "from autosample.system.configs import FOLDER, find, names, read\n"
        "assert all(find(name).is_file() and read(name) for name in names())\n"
        "print(FOLDER, len(names()))"
    )
    folder, count = run(sys.executable, "-c", code, cwd=tmp_path, env=installed).stdout.split()
    assert Path(folder) != FOLDER
    assert int(count) == len(names())


@pytest.mark.slow
def test_it_trains_in_an_empty_folder(installed, tmp_path):
    run(sys.executable, "-W", "ignore", "-m", "autosample", *FIT, cwd=tmp_path, env=installed)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert next(tmp_path.rglob("last.ckpt")).is_file()
    assert next(tmp_path.rglob("report.md")).read_text().count("wsnet") > 1


def fresh(wheel: Path, extra: str, folder: Path) -> tuple[Path, dict[str, str]]:
    """The interpreter of a new environment with the wheel and an extra from the package index, and its variables."""
    run(sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, folder / "env")
    python = folder / "env" / "bin" / "python"
    what = f"autosample[{extra}] @ {wheel.as_uri()}" if extra else wheel
    run(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, what)
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    (folder / "empty").mkdir()
    return python, {**env, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_a_fresh_environment_with_base_dependencies_alone(wheel, tmp_path):
    """Needs the package index."""
    python, env = fresh(wheel, "", tmp_path)
    run(python, "-W", "ignore", "-c", BASE, cwd=tmp_path / "empty", env=env)
    found = f"from importlib.util import find_spec; print([n for n in {sorted(EXTRA_MODULES)} if find_spec(n)])"
    assert run(python, "-c", found, env=env, cwd=tmp_path).stdout == "[]\n"
    asked = subprocess.run(
        [python.with_name("autosample"), "fit"], capture_output=True, text=True, check=False, env=env
    )
    assert asked.returncode == 2
    assert asked.stderr.endswith("pip install 'autosample[train]'\n")


@pytest.mark.slow
def test_a_fresh_environment_with_all_extras(wheel, tmp_path):
    """Needs the package index."""
    python, env = fresh(wheel, "all", tmp_path)
    verb = (python, "-W", "ignore", "-m", "autosample")
    run(*verb, *FIT, cwd=tmp_path / "empty", env=env)
    checkpoint = next((tmp_path / "empty").rglob("last.ckpt"))
    run(*verb, "export", checkpoint, "--input", 1, 16, 16, "--out", "x.onnx", cwd=tmp_path / "empty", env=env)
    run(*verb, "quickstart", "--epochs", 1, "--seeds", 1, "--model", "digitnet", cwd=tmp_path / "empty", env=env)
    assert next((tmp_path / "empty").rglob("accuracy.png")).is_file()
