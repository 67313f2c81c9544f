"""The table of presets: fields of `Spec` by name. A preset is data; add a row to have one of your own."""

from collections.abc import Mapping
from typing import Any

PRESETS: dict[str, Mapping[str, Any]] = {
    # the weight itself, as one window per filter: the baseline that every comparison needs
    "dense": {"rule": "strided", "layout": "flat", "windows": 1, "grid": "window", "ratio": 1},
    # Jin et al. 2018: integer stride along the taps, channels m mod Q
    "wsnet": {"rule": "strided"},
    # Yang et al. 2020: overlapping segments of the unrolled filter
    "fsnet": {"rule": "strided", "layout": "flat", "windows": 1},
    # the same with learned fractional offsets, l = (L - K)·sigmoid(alpha)
    "dfsnet": {
        "rule": "interpolated",
        "layout": "flat",
        "windows": 1,
        "options": {"unit": "sigmoid", "freeze_at": 0.9},
    },
    # Zhou et al. 2020: offsets from an index learner, averaged into a routing map
    "nes": {"rule": "indexed", "options": {"freeze_at": 0.9}},
    # Chen et al. 2015: every weight by itself, hashed offset and sign
    "hashednet": {"rule": "random", "layout": "flat", "window": 1, "signs": "random"},
    # vector quantisation: disjoint windows, the summary is a codebook
    "kmeans": {
        "rule": "assigned",
        "layout": "flat",
        "window": "row",
        "grid": "window",
        "options": {"start": "random"},
    },
    # pseudo-random windows: the baseline that costs no bytes
    "random": {"rule": "random"},
    # ours: large layers give to small ones; random windows, except in linear layers, whose offsets are learned (in
    # units of rows, and frozen early) where they are cheap; docs/research-log.md says why. With `afford`, the rates
    # are for the other kinds too.
    "autosample": {
        "rule": "interpolated",
        "share": "root",
        "options": {"afford": 0, "start": "random", "rate": 0.6, "freeze_at": 0.6},
        "by_kind": {
            "linear": {"options": {"start": "strided", "rate": 0.1, "afford": 0.1}},
            "conv2d": {"options": {"rate": 0.2}},
            "pointwise": {"options": {"rate": 0.2}},
        },
    },
}
