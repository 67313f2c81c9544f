"""The verb `shard`: a folder of pictures or sounds, or a CSV set, as webdataset shards."""

from collections.abc import Sequence
from pathlib import Path

from autosample.cli.options import Parser, number, parse, whole
from autosample.errors import ConfigError


def declare(parser: Parser) -> None:
    """Declare the options of `shard`."""
    parser.description = (
        "Write a set as webdataset shards (tar files), without changing a file of it. Running it again goes on.\n"
        "SRC is a folder CLASS/*, or one with train/CLASS/*, val/CLASS/*, of pictures or sounds, or a CSV table with\n"
        "the columns path and label. With --check, only compare the shards in a folder with their index."
    )
    add = parser.add_argument
    add("source", type=Path, help="the set; with --check the folder of shards")
    add("out", type=Path, nargs="?", help="folder for the shards")
    add("--size", type=whole, default=1000, help="files of a shard (1000)")
    add("--seed", type=whole, default=0, help="seed of the order of files in the shards (0)")
    add("--on-bad", default="raise", help="raise an error about a file that cannot be read, or skip it (raise)")
    add("--fold", type=whole, help="the test fold of a CSV table with folds")
    add("--allow-outside", action="store_true", help="follow links and paths that leave the set")
    add("--max_pixels", type=whole, help="largest image, in pixels (89478485)")
    add("--max_seconds", type=number, help="longest sound, in seconds (86400)")
    add("--max_bytes", type=whole, help="largest file, in bytes (4294967296)")
    add("--check", action="store_true", help="compare the shards with their index, and write nothing")


def main(args: Sequence[str]) -> None:
    """Write or check shards, and print what there is of each part.

    Raises:
        AutosampleError: An option, the set, or a shard is not usable.
    """
    given = parse(args, declare)
    source, out, on_bad = given.pop("source"), given.pop("out"), given.pop("on_bad")
    if on_bad not in ("raise", "skip"):
        raise ConfigError(f"on-bad must be raise or skip, got {on_bad}: leave it out to raise")
    if given.pop("check") != (out is None):
        raise ConfigError("shard needs a set and a folder, or --check and a folder alone: see autosample shard --help")
    from autosample.data.files import Limits, shown
    from autosample.data.sharding import check_shards, write_shards

    limits = {name: given.pop(name) for name in ("max_pixels", "max_seconds", "max_bytes")}
    allowed = {name: value for name, value in limits.items() if value is not None}
    bad: list[str] = []
    if out is None:
        index = check_shards(source)
    else:
        index, bad = write_shards(source, out, skip=on_bad == "skip", limits=Limits(**allowed), **given)
    for part, shards in index.parts.items():
        count, size = sum(shard.count or 0 for shard in shards), sum(shard.size or 0 for shard in shards)
        print(f"{part}: {count:,} files of {len(index.names)} classes, {size:,} bytes in {len(shards)} shards")
    if bad:
        print(f"left out, as they cannot be read: {len(bad)}; the first: {min(bad)}")
    print(f"{'checked' if out is None else 'written'}: {shown(out or source)}")
