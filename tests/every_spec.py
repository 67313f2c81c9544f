"""Every preset that compresses, and the options that store something of their own."""

import autosample

SPECS = {
    **{name: {"preset": name} for name in autosample.PRESETS if name != "dense"},
    "strassen": {"preset": "strassen"},  # a rule of its own kind, without a preset
    "autosample, learned": {"preset": "autosample", "options": {"afford": 10}},
    "categorical": {"preset": "dfsnet", "rule": "categorical"},
    "selections": {"preset": "folded", "options": {"assignment": "energy", "permutation": "energy"}},
    "signs": {"preset": "random", "signs": "random"},
    "shuffled columns": {"preset": "random", "columns": "shuffle", "layout": "taps"},
    "learned columns": {"preset": "random", "columns": "learned", "layout": "taps"},
}
