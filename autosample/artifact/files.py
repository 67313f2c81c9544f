"""Writing and reading the folder: the folder always holds one complete save, even if a process is killed.

`config.json` holds the SHA-256 of the tensors. A save takes effect when `config.json` is renamed. Before that, the new
tensors have a file name made of their hash; afterwards they get the usual name. A reader first looks for the hash name
and checks what it finds, so every state in between is either the old model or the new one.
"""

import hashlib
import lzma
import re
from pathlib import Path

from autosample.artifact.config import COMPRESSIONS, FORMAT, Config, TensorFile, parse
from autosample.errors import DAMAGED, ArtifactError, one_line
from autosample.system.files import alone_in, sweep_partials, sync_folder, write_bytes

CONFIG, TENSORS, CARD = "config.json", "model.safetensors", "README.md"
_SUFFIX = {"none": "", "xz": ".xz", "huffman": ""}
_LEFTOVER = re.compile(r"model-[0-9a-f]{16}\.safetensors(\.xz)?")
_LARGEST_CONFIG = 4 << 20
# Largest size of decompressed tensors: so many times the compressed size, and some more [bytes].
_GROWTH, _FREE_GROWTH = 100, 16 << 20
# Memory for decompressing, as the strongest preset needs it [bytes]; pieces are so large.
_LZMA_MEMORY, _PIECE = 80 << 20, 1 << 20


def compress(raw: bytes, compression: str) -> bytes:
    """The tensors' bytes as a file holds them. With `huffman`, the tensors themselves are coded.

    Raises:
        ArtifactError: The compression is unknown.
    """
    if compression not in COMPRESSIONS:
        raise ArtifactError(f"compression must be one of {', '.join(COMPRESSIONS)}, got {compression!r}: use xz")
    return raw if compression != "xz" else lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)


def describe(data: bytes, raw: bytes, compression: str) -> TensorFile:
    """The entry of `config.json` for the tensors' file."""
    digest = hashlib.sha256(data).hexdigest()
    return TensorFile(sha256=digest, bytes=len(data), raw_bytes=len(raw), compression=compression)


def write_folder(folder: Path, config: Config, data: bytes, card: str) -> None:
    """Write a save atomically: if the process is killed, the folder holds the old save or the new one.

    Raises:
        ArtifactError: The folder cannot be written, or holds another file with one of our names.
    """
    assert config.tensors is not None
    text = config.to_json().encode()
    if len(text) > _LARGEST_CONFIG:
        raise ArtifactError(
            f"config.json must have at most {_LARGEST_CONFIG >> 20} MiB, got {len(text):,} bytes: shorten facts=, "
            "preprocessing= or class_names="
        )
    parse(text.decode())  # what is saved can be loaded
    _check_growth(config.tensors, len(data), "save with compression='none'")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder):
            _check_place(folder)
            _write(folder, config.tensors, text, data, card)
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written ({one_line(error)}): choose another folder") from error


def _write(folder: Path, file: TensorFile, text: bytes, data: bytes, card: str) -> None:
    suffix = _SUFFIX[file.compression]
    waiting = folder / f"model-{file.sha256[:16]}.safetensors{suffix}"
    write_bytes(waiting, data)
    write_bytes(folder / CONFIG, text)  # from here on the folder holds the new model
    waiting.replace(folder / f"{TENSORS}{suffix}")
    write_bytes(folder / CARD, card.encode())
    stale = [folder / f"{TENSORS}{other}" for other in _SUFFIX.values() if other != suffix]
    for path in [*stale, *(p for p in folder.iterdir() if _LEFTOVER.fullmatch(p.name))]:
        path.unlink(missing_ok=True)
    sweep_partials(folder)
    sync_folder(folder)


def write_card(folder: Path, card: str) -> None:
    """Replace the model card."""
    write_bytes(folder / CARD, card.encode())


def _check_place(folder: Path) -> None:
    """Refuse to replace files that are not ours."""
    path = folder / CONFIG
    if path.exists():
        with path.open(errors="replace") as file:
            ours = f'"format": "{FORMAT}"' in file.read(_LARGEST_CONFIG)
        if not ours:
            raise ArtifactError(f"{folder} has a config.json that autosample did not write: choose another folder")
    elif (folder / CARD).exists():
        raise ArtifactError(f"{folder} has a README.md but no saved model: choose another folder")


def check_whole(path: Path) -> None:
    """Raise `ArtifactError` if a path is a checkpoint in pieces, as `torch.distributed.checkpoint` writes them.

    They are not read: what they say of themselves is a pickle.
    """
    if (path / ".metadata").is_file():
        raise ArtifactError(
            f"a checkpoint must be whole, got the pieces of a sharded one in {path}: in the program that wrote it, set "
            'state_dict_type="full" of FSDPStrategy, or gather the net and call autosample.save'
        )


def read_config(folder: Path) -> Config:
    """The configuration of a saved model, checked.

    Raises:
        ArtifactError: There is none, or it is not valid.
    """
    path = folder / CONFIG
    if not path.is_file():
        check_whole(folder)
        raise ArtifactError(f"a saved model is a folder with a config.json, got {folder}: check the path")
    if path.stat().st_size > _LARGEST_CONFIG:
        raise ArtifactError(f"config.json is larger than {_LARGEST_CONFIG >> 20} MiB: {DAMAGED}")
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"config.json cannot be read as UTF-8 text ({one_line(error)}): use another copy"
        ) from error


def read_folder(folder: Path) -> tuple[Config, bytes]:
    """Configuration and decompressed tensors of one save, checked against each other.

    Raises:
        ArtifactError: Something is missing or damaged.
    """
    for attempt in range(3):
        config = read_config(folder)
        assert config.tensors is not None
        data = _read_tensors(folder, config.tensors)
        if data is not None:
            return config, _decompress(data, config.tensors)
        if attempt and read_config(folder) == config:  # no other process is saving here now
            break
    raise ArtifactError(f"{folder} has no tensors with the checksum in config.json: use another copy")


def _read_tensors(folder: Path, file: TensorFile) -> bytes | None:
    suffix = _SUFFIX[file.compression]
    for path in (folder / f"model-{file.sha256[:16]}.safetensors{suffix}", folder / f"{TENSORS}{suffix}"):
        try:
            if not path.is_file() or path.stat().st_size != file.bytes:
                continue
            data = path.read_bytes()
        except FileNotFoundError:  # renamed by a save in progress
            continue
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read ({one_line(error)}): check its permissions") from error
        if hashlib.sha256(data).hexdigest() == file.sha256:
            return data
    return None


def _check_growth(file: TensorFile, size: int, fix: str) -> None:
    """Refuse tensors that need far more memory than `size` bytes of their file suggest, before it is used."""
    most = size if file.compression != "xz" else _GROWTH * size + _FREE_GROWTH
    if file.raw_bytes > most:
        raise ArtifactError(f"tensors in {size:,} bytes may have at most {most:,}, got {file.raw_bytes:,}: {fix}")


def _decompress(data: bytes, file: TensorFile) -> bytes:
    _check_growth(file, len(data), DAMAGED)
    raw = data if file.compression != "xz" else _unpacked(data, file.raw_bytes)
    if len(raw) != file.raw_bytes:
        got = "more" if len(raw) > file.raw_bytes else len(raw)
        raise ArtifactError(f"the tensors must have {file.raw_bytes} bytes, got {got}: {DAMAGED}")
    return bytes(raw)


def _unpacked(data: bytes, expected: int) -> bytearray:
    """What xz data hold, in pieces, so that no more than `expected` bytes and one piece are in memory."""
    raw, engine = bytearray(), lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY)
    try:
        while not engine.eof and len(raw) <= expected:
            piece = engine.decompress(data, max_length=_PIECE)
            if not piece and engine.needs_input:
                break  # the data end too early
            raw += piece
            data = b""
    except (lzma.LZMAError, EOFError) as error:
        raise ArtifactError(f"the tensors are not valid xz data ({one_line(error)}): {DAMAGED}") from error
    return raw
