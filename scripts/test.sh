#!/usr/bin/env bash
# Sets up, then runs ruff, pyright and the tests (of those marked slow only the distributed ones). Arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/setup.sh" dev
workers=$(nproc) # asked first: nproc heeds OMP_NUM_THREADS
export OMP_NUM_THREADS=1
ruff check .
ruff format --check .
pyright
pytest -n "$workers" -m "not slow or ddp" "$@"
# shapes and types of tensor functions, checked at every call
pytest -n "$workers" -m "not slow" --jaxtyping-packages=autosample.sampling,beartype.beartype \
    tests/sampling --ignore tests/sampling/test_spec.py
