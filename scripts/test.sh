#!/usr/bin/env bash
# Sets up, then runs ruff, pyright and the tests (of the slow ones only the distributed tests). Arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/setup.sh" dev
workers=$(nproc) # before OMP_NUM_THREADS is set, which changes nproc
export OMP_NUM_THREADS=1
ruff check .
ruff format --check .
types=$(mktemp)
pyright >"$types" & # beside the tests, as it uses one core
checking=$!
pytest -n "$workers" -m "not slow or ddp" --ignore-glob "*/tests/sampling/test_[!s]*" \
  --ignore tests/sampling/test_sharing.py --ignore tests/sampling/test_sizing.py "$@"
wait "$checking" || { cat "$types" >&2; exit 1; }
# the rest of the sampling tests, with shapes and types of tensor functions checked at every call
pytest -n "$workers" -m "not slow" --jaxtyping-packages=autosample.sampling,beartype.beartype \
  tests/sampling --ignore tests/sampling/test_spec.py
