"""The bundled configurations, by name: `experiment/digits` is `configs/experiment/digits.yaml`."""

from pathlib import Path
from typing import Any

from autosample.errors import ConfigError, closest, did_you_mean, one_line

FOLDER = Path(__file__).parents[1] / "configs"


def names(*kinds: str) -> list[str]:
    """Names of the bundled configurations.

    Args:
        kinds: Folders to search, such as `ablation`; by default all.
    """
    found = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))
    return [name for name in found if not kinds or name.partition("/")[0] in kinds]


def find(name: str | Path, *kinds: str) -> Path:
    """The file of a configuration.

    Args:
        name: A path, or a name such as `experiment/digits`. An existing file wins over a name.
        kinds: As for `names`.

    Raises:
        ConfigError: There is no such file and no such name.
    """
    path, known = Path(name).expanduser(), names(*kinds)
    if path.is_file():
        return path
    asked = path.as_posix().removesuffix(".yaml")
    if asked in known:
        return FOLDER / f"{asked}.yaml"
    folders = dict.fromkeys(f"{one.partition('/')[0]}/" for one in known)
    near = did_you_mean(_near(asked, known)) or f"names begin with {', '.join(folders)}, such as {known[0]}"
    raise ConfigError(f'no file or config is called "{name}": {near}')


def _near(asked: str, known: list[str]) -> list[str]:
    """Suggestions: configurations with the same file name, or else with a similar name."""
    last = asked.rpartition("/")[2]
    same = [name for name in known if name.rpartition("/")[2] == last]
    exact = [name for name in same if asked.endswith(f"/{name}")]
    by_last = {name.rpartition("/")[2]: name for name in known}
    return exact or same[:2] or closest(asked, known) or [by_last[end] for end in closest(last, by_last)]


def read(name: str | Path, *kinds: str) -> dict[str, Any]:
    """The content of a configuration; see `find`.

    Raises:
        ConfigError: There is no such configuration, or it is not a mapping in YAML.
    """
    import yaml

    path = find(name, *kinds)
    try:
        loaded = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"a config must be valid YAML, got {name}: {one_line(error)}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"a config must hold KEY: VALUE pairs such as model: and data:, {name} does not: see examples in {FOLDER}"
        )
    return loaded
