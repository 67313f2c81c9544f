"""One colour and one marker per method, the same in all pictures."""

import re
from collections.abc import Iterable
from typing import NamedTuple


class Style(NamedTuple):
    """How the line of a method is drawn: colour, marker at its points, and dashes."""

    colour: str
    marker: str
    dashes: str = "-"


#: Methods that have their own colour; each colour is used only once in the project.
METHODS: dict[str, Style] = {
    "dense": Style("#3c3c3c", "s"),
    "narrow": Style("#9b9b9b", "s"),
    "autosample": Style("#d62728", "o"),
    "learned": Style("#e377c2", "o"),
    "random": Style("#ff7f0e", "o"),
    "random root": Style("#8b4513", "o"),
    "wsnet": Style("#1f77b4", "^"),
    "fsnet": Style("#17b3c4", "v"),
    "dfsnet": Style("#8f63c9", "v"),
    "nes": Style("#2ca02c", "D"),
    "hashednet": Style("#7a7a00", "P"),
    "kmeans": Style("#c9b400", "X"),
    "folded": Style("#0b2d8a", "^"),
    "learned blocks": Style("#2400fc", "v"),
    "learned signs, two folds": Style("#b400fc", "D"),
    "conditioned": Style("#6a0f49", "D"),
    "strassen": Style("#00664b", "P"),
    "low-rank": Style("#e8a0a0", "X"),
    "pruned": Style("#93cf5f", "v"),
}
#: Plans of layers, in the pictures of `autosample bench`; dense torch has the colour of `dense`.
PLANS: dict[str, str] = {
    "materialize": "#c9b79c",
    "fold": "#4e8098",
    "reuse": "#5b5bd6",
    "fused": "#ff8fa3",
    "deployed": "#00a878",
}
#: Colours for all other labels, in the order in which a picture needs them.
OTHERS: tuple[str, ...] = (
    "#a2785a", "#7fb7be", "#c77dff", "#5f6f52", "#6b8cff", "#b5446e", "#d4b2d8", "#495867", "#bfd200", "#4dd0a6",
)  # fmt: skip
_OTHER_MARKERS = "ph<>*8d"
# methods with few bits get dashed lines in the colour of the method
_BITS = re.compile(r" (\d+) bits")
_DASHES = {"8": "--", "4": ":"}
_OTHER_DASHES = "-."
# maximum lightness of text [0 … 1]
_LIGHTEST = 0.5


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """The style of each label of a picture.

    Labels such as `autosample 4 bits` get the colour of the method, and dashes. Every other label gets the next colour
    of `OTHERS`, in the order given.
    """
    found: dict[str, Style] = {}
    used = 0
    for label in labels:
        bits = _BITS.search(label)
        dashes = _DASHES.get(bits[1], _OTHER_DASHES) if bits else "-"
        style = METHODS.get(_BITS.sub("", label))
        if style is None:
            marker = _OTHER_MARKERS[used % len(_OTHER_MARKERS)]
            style, used = Style(OTHERS[used % len(OTHERS)], marker), used + 1
        found[label] = style._replace(dashes=dashes)
    return found


def for_text(colour: str) -> str:
    """A colour for text on white: darker if the given one would be hard to read."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    light = (0.299 * parts[0] + 0.587 * parts[1] + 0.114 * parts[2]) / 255
    factor = min(1.0, _LIGHTEST / max(light, 1e-9))
    return "#" + "".join(f"{round(part * factor):02x}" for part in parts)
