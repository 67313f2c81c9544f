#!/usr/bin/env bash
# CIFAR-10 on the 5-conv net, summaries at 4 bits: at 64x in four epochs, and at 16x in six. DATA_ROOT holds cifar10/ or
# cifar-10-batches-py/.
# Expected: at 64x 27 runs of 10 to 33 minutes and 3 narrow ones of three, at 16x 27 runs of 14 to 36 minutes and 3 narrow
# ones of ten, on a core of an AMD EPYC with bfloat16 instructions: twenty hours; halved by --jobs 2.
# Usage: scripts/reproduce_cifar10_int4.sh DATA_ROOT [--jobs N …]; re-running resumes.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_cifar10_int4.sh DATA_ROOT [options of autosample ablate]}")
source "$(dirname "$0")/setup.sh" ablate
for grid in cifar10_5conv_int4 cifar10_5conv_int4_16x; do
  autosample ablate "ablation/$grid" --root "$data" "${@:2}"
done
