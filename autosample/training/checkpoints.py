"""How Lightning writes and reads checkpoints: whole or not at all, with a digest."""

from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from autosample.artifact.checkpoint import load_file, write_checkpoint


class WholeCheckpoints(TorchCheckpointIO):
    """A plugin for `Trainer(plugins=...)`: a checkpoint is complete, or the earlier one is still there.

    Lightning moves the finished file from the folder for temporary files. If that is another file system, the move is
    a copy, and a process that ends in the middle leaves half a file. This plugin writes beside the target. Each file
    has a digest, which reading checks. Only tensors and plain data are read, whatever Lightning is told. Remote
    files are written by Lightning itself.

    Raises:
        ArtifactError: A file cannot be written, or is damaged.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if storage_options is None and (local := _local(path)):
            write_checkpoint(checkpoint, local)
        else:
            super().save_checkpoint(checkpoint, path, storage_options)

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, place: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        if local := _local(path):
            return load_file(local, map_location)
        return super().load_checkpoint(path, map_location, True)


def _local(path: Any) -> Path | None:
    """The path on this machine, if it is one."""
    files, place = url_to_fs(str(path))
    return Path(place) if isinstance(files, LocalFileSystem) else None
