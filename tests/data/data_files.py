"""Writers of tiny data sets, for tests."""

import csv
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image


def write_tone(path: Path, rate: int = 8000, seconds: float = 0.1, hertz: float = 440.0, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)
    soundfile.write(path, np.repeat(wave[:, None], channels, axis=1), rate)
    return path


def write_table(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_esc(folder: Path, targets: range, takes: int = 2, suffix: str = ".wav") -> Path:
    """ESC-50's layout with `takes` recordings, cut in two each, per class and fold; a table which says .wav."""
    rows = []
    for target in targets:
        for fold in range(1, 6):
            for recording in range(takes):
                for cut in "AB":
                    stem = f"{fold}-{1000 * target + 10 * fold + recording}-{cut}-{target}"
                    write_tone(folder / "audio" / f"{stem}{suffix}", seconds=0.01)
                    rows.append({"filename": f"{stem}.wav", "fold": fold, "target": target, "category": f"c{target}"})
    for row in rows:
        row["esc10"] = row["target"] % 5 == 0
    write_table(folder / "meta" / "esc50.csv", rows)
    return folder


def write_pngs(folder: Path, names: tuple[str, ...], per_class: int, size: int = 32, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:03d}.png")
    return folder


def write_idx(folder: Path, per_class: int = 3) -> Path:
    """MNIST's four files; images of digit d hold the value d + 10 in all pixels."""
    folder.mkdir(parents=True)
    for stem in ("train", "t10k"):
        labels = np.arange(10 * per_class, dtype=np.uint8) % 10
        images = np.broadcast_to((labels + 10)[:, None, None], (len(labels), 28, 28))
        header = np.array([0x0803, *images.shape], dtype=">i4").tobytes()
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = np.array([0x0801, len(labels)], dtype=">i4").tobytes()
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return folder
