"""Every preset that compresses, and the options that store something of their own."""

import autosample

SPECS = {
    **{name: {"preset": name} for name in autosample.PRESETS if name != "dense"},
    "strassen": {"preset": "strassen"},  # a rule of its own kind, without a preset
    "autosample, learned": {"preset": "autosample", "options": {"afford": 10}},
    "categorical": {"preset": "dfsnet", "rule": "categorical"},
    "short axes": {"preset": "nes", "rule": "epitome"},
    "selections": {"preset": "folded", "options": {"assignment": "energy", "permutation": "energy"}},
    "learned signs": {"preset": "folded", "options": {"signs": "learned", "mixing": "two"}},
    "signs": {"preset": "random", "signs": "random"},
    "shuffled columns": {"preset": "random", "columns": "shuffle", "layout": "taps"},
}
#: Those whose layers have one weight for all inputs. `conditioned` has another one for each; see test_conditioned.py.
WITH_WEIGHT = {name: spec for name, spec in SPECS.items() if name != "conditioned"}
#: The same of all presets that compress.
PRESETS_WITH_WEIGHT = [name for name in autosample.PRESETS if name not in ("dense", "conditioned")]
