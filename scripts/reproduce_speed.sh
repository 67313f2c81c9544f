#!/usr/bin/env bash
# Measures the speed of layers, models, training steps and timm models against the fastest dense torch, with one thread
# and with two, and how time grows with size. Needs a machine that does nothing else; takes some hours, most of them
# in torch.compile. Usage: scripts/reproduce_speed.sh [OUT] [SUITE ...]. Then: python scripts/update_docs.py
set -euo pipefail
out=$(realpath -m "${1:-$(dirname "$0")/../results/speed}")
shift $(($# < 1 ? $# : 1))
suites=${*:-layers models training growth timm}
source "$(dirname "$0")/setup.sh" ablate

failed=0
for suite in $suites; do
  # a suite with wrong outputs writes its record too, and the others still run
  autosample bench "$suite" --threads 1 2 --out "$out" || failed=1
  if [ "$suite" = training ] || [ "$suite" = models ]; then
    # and once more where large tensors do not have to be asked from the system again and again
    autosample bench "$suite" --threads 1 2 --keep-memory --out "$out" || failed=1
  fi
done
exit "$failed"
