#!/usr/bin/env bash
# Measures layers, models, training steps and timm models against the fastest dense torch, with one thread and with two,
# and how time grows with size. Needs an idle machine. Takes some hours, most of them in torch.compile.
# Usage: scripts/reproduce_speed.sh [OUT] [SUITE ...]. Then: python scripts/update_docs.py
set -euo pipefail
out=$(realpath -m "${1:-$(dirname "$0")/../results/speed}")
shift $(($# < 1 ? $# : 1))
suites=${*:-layers models training growth timm folded}
source "$(dirname "$0")/setup.sh" ablate

failed=0
for suite in $suites; do
  # a suite with wrong outputs writes its record too; the other suites still run
  autosample bench "$suite" --threads 1 2 --out "$out" || failed=1
  if [ "$suite" = training ] || [ "$suite" = models ]; then
    # once more with freed memory kept, so the pages of large tensors are not requested again and again
    autosample bench "$suite" --threads 1 2 --keep-memory --out "$out" || failed=1
  fi
done
exit "$failed"
