"""The table of presets: fields of `Spec` by name. A preset is data; add a row for your own."""

from collections.abc import Mapping
from typing import Any

PRESETS: dict[str, Mapping[str, Any]] = {
    # the weight itself, as one window per filter: the baseline that every comparison needs
    "dense": {"rule": "strided", "layout": "flat", "windows": 1, "grid": "window", "ratio": 1},
    # Jin et al. 2018: integer stride along the taps, channels m mod Q
    "wsnet": {"rule": "strided"},
    # ours: each block of filters sees the channel groups added up with signs of its own, so its work is that of its
    # numbers
    "folded": {"rule": "folded", "layout": "taps", "share": "root"},
    # after Li et al. 2024 (KernelWarehouse): the same, with folds that a small learner mixes for each example
    "conditioned": {"rule": "conditioned", "layout": "taps", "share": "root"},
    # Yang et al. 2020: overlapping segments of the flattened filter
    "fsnet": {"rule": "strided", "layout": "flat", "windows": 1},
    # the same with learned fractional offsets, l = (L - K)·sigmoid(4a / (L - K)), so that rates are in rows. With the
    # paper's alpha = 4a / (L - K), `unit: logit`, a step is up to hundreds of rows, and nets learn badly
    "dfsnet": {
        "rule": "interpolated",
        "layout": "flat",
        "windows": 1,
        "options": {"unit": "sigmoid", "rate": 0.02, "freeze_at": 0.6},
        "by_kind": {"linear": {"options": {"rate": 0.1}}},
    },
    # Zhou et al. 2020: offsets from an index learner, averaged into a routing map. Windows start at random, since those
    # of a filter that start alike stay alike for long; the learner's unit is rows, as above
    "nes": {"rule": "indexed", "options": {"start": "random", "unit": "sigmoid", "freeze_at": 0.6}},
    # Chen et al. 2015: every weight on its own, hashed offset and sign
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
    # ours: small layers get relatively more numbers. Windows are random; linear layers learn their offsets (in units of
    # rows, frozen early) if these are cheap. See docs/research-log.md. With `afford`, the rates are for the other kinds
    # too.
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
