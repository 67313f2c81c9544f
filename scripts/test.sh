#!/usr/bin/env bash
# Sets up, then runs ruff, pyright and the tests (of the slow ones only the distributed tests). Arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/setup.sh" dev
workers=$(nproc) # before OMP_NUM_THREADS is set, which changes nproc
export OMP_NUM_THREADS=1
ruff check .
ruff format --check .

# pyright, and the tests of sampling with shapes and types of tensor functions checked at every call: both use one core,
# so they run beside the other tests
said=$(mktemp)
beside() {
  pyright
  pytest -p no:cacheprovider -m "not slow" --jaxtyping-packages=autosample.sampling,beartype.beartype \
    tests/sampling/test_{fitting,gradients,methods,windows}.py
}
beside >"$said" 2>&1 &
checking=$!
trap 'kill "$checking" 2>/dev/null || true; rm -f "$said"' EXIT

status=0
pytest -n "$workers" -m "not slow or ddp" --ignore-glob "*/tests/sampling/test_[fgmw]*" "$@" || status=$?
wait "$checking" || status=$?
cat "$said"
exit "$status"
