"""What `autosample fit` tells once, though it is found in code that Lightning calls."""

import json
import warnings

# offsets that move by up to 30 rows a step
FAST = {"options": {"unit": "positions", "rate": 30.0, "freeze_at": 1.0}}


def test_each_warning_is_told_once(fit):
    options = ("--model.spec=dfsnet", "--model.spec_args", json.dumps(FAST), "--model.scheduler=none")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")  # as on the command line
        ended = fit(*options, "--model.include=[stages,nowhere]", "--trainer.max_epochs=3")
    assert ended.code == 0, ended.err
    told = [str(warning.message) for warning in found]
    for part in (
        "include pattern 'nowhere' matches no layer",
        "learned offsets should move by at most a row a step, got up to 30 rows",
        "learned offsets diverge in epoch 0: they move by",
    ):
        assert sum(part in text for text in told) == 1, part
    assert len(told) == 3
    assert all("\n" not in text and len(text) <= 300 for text in told)
