"""Listing of the images of class folders. A link is followed once, within the set, and never to another class."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS

from autosample.data.files import is_file, is_folder, shown
from autosample.errors import DataError

OUTSIDE = "move it there, or pass allow_outside=True"


class _Link(NamedTuple):
    folder: str
    name: str
    label: int

    @property
    def path(self) -> Path:
        return Path(self.folder, self.name)


def scan(folder: str | Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, by name.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"{shown(folder)}: a folder must be readable, got {error.strerror}: change its rights or remove it"
        ) from error


class Listing:
    """The images below class folders, each once.

    Args:
        root: folder of the set.
        folder: folder of the class folders, `root` or below it.
        class_names: names of the class folders, in the order of the labels.
        allow_outside: follow links that leave `root`.
        suffixes: what counts as an image, in lower case.

    Raises:
        DataError: A folder cannot be read, an image is not a file, or a link is broken, leaves the set, or leads to
            another class.
    """

    def __init__(
        self,
        root: Path,
        folder: Path,
        class_names: Sequence[str],
        allow_outside: bool = False,
        suffixes: tuple[str, ...] = IMG_EXTENSIONS,
    ) -> None:
        self._labels, self.allow_outside = {name: i for i, name in enumerate(class_names)}, allow_outside
        self.suffixes = suffixes
        # where links may lead, and how far below it classes have their folders
        self._places = ((os.path.realpath(folder), 0), (os.path.realpath(root), len(folder.relative_to(root).parts)))
        self._images: list[_Link] = []
        self._seen: dict[str, int] = {}  # labels of real folders, and of real files that links lead to
        self._folders: list[_Link] = []
        self._files: list[tuple[_Link, str]] = []
        for name, label in self._labels.items():
            link = _Link(str(folder), name, label)
            if link.path.is_symlink():
                self._folders.append(link)
            elif is_folder(link.path):
                self._walk(link.path, os.path.realpath(link.path), label)
        for link in self._folders:  # grows meanwhile; real folders came first, so their images keep their own names
            self._walk(link.path, self._target(link), link.label)
        for link, real in self._files:
            beside = str(Path(real).parent)
            listed = beside in self._seen and real.lower().endswith(self.suffixes)
            if self._new(beside if listed else real, link.path, link.label) and not listed:
                self._images.append(link)

    def images(self) -> list[tuple[str, int]]:
        """Path and label of each image, in the order of folders and names."""
        found = sorted(self._images, key=lambda image: (image.label, image.folder, image.name))
        return [(f"{image.folder}{os.sep}{image.name}", image.label) for image in found]

    def _walk(self, start: Path, real: str, label: int) -> None:
        waiting = [(str(start), real)]
        while waiting:
            folder, real = waiting.pop()
            if not self._new(real, folder, label):
                continue
            for entry in scan(folder):
                here = _Link(folder, entry.name, label)
                if entry.is_symlink():
                    self._link(here)
                elif entry.is_dir():
                    waiting.append((entry.path, str(Path(real, entry.name))))
                elif entry.name.lower().endswith(self.suffixes):
                    if not entry.is_file():
                        raise DataError(
                            f"{shown(entry.path)}: an image must be a file, got a pipe or a device: remove it"
                        )
                    self._images.append(here)

    def _link(self, link: _Link) -> None:
        if is_folder(link.path):
            self._folders.append(link)
        elif is_file(link.path):
            if link.name.lower().endswith(self.suffixes):
                self._files.append((link, self._target(link)))
        elif not link.name.startswith("."):  # editors lock files with broken links
            raise DataError(f"{shown(link.path)}: a link must lead to a file or a folder, got neither: remove it")

    def _target(self, link: _Link) -> str:
        """Where a link leads."""
        real = os.path.realpath(link.path)
        for place, depth in self._places:
            inside = Path(os.path.relpath(real, place)).parts
            if inside[:1] != (os.pardir,):
                if inside[depth:] and inside[depth] in self._labels and self._labels[inside[depth]] != link.label:
                    raise _mixed(link.path)
                return real
        if not self.allow_outside:
            raise DataError(f"{shown(link.path)}: a link must stay in {shown(self._places[1][0], 60)}: {OUTSIDE}")
        return real

    def _new(self, real: str, path: str | Path, label: int) -> bool:
        """Whether a real folder or file comes for the first time."""
        known = self._seen.setdefault(real, -1)
        self._seen[real] = label
        if known not in (-1, label):
            raise _mixed(path)
        return known == -1


def _mixed(path: str | Path) -> DataError:
    return DataError(f"{shown(path)}: a link must stay in its class, got images of another class: remove it")
