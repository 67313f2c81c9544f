#!/usr/bin/env bash
# Sets up, then runs ruff, pyright and the tests (of the slow ones only the distributed tests). Arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/setup.sh" dev
workers=$(nproc) # before OMP_NUM_THREADS is set, which changes nproc
export OMP_NUM_THREADS=1
ruff check .
ruff format --check .
pyright
pytest -n "$workers" -m "not slow or ddp" "$@"
# check shapes and types of tensor functions at every call
pytest -n "$workers" -m "not slow" --jaxtyping-packages=autosample.sampling,beartype.beartype \
    tests/sampling --ignore tests/sampling/test_spec.py
