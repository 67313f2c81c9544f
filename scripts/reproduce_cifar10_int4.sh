#!/usr/bin/env bash
# Makes the tables of CIFAR-10 on the 5-conv net with summaries at 4 bits: at 64x in four epochs, at 16x in six.
# DATA_ROOT contains cifar10/ or cifar-10-batches-py/.
# Expected: 35 hours on one core of an AMD EPYC with bfloat16 instructions; --jobs 2 halves this. At 64x there are 51 runs
# of 17 minutes on average in the published records, at 16x 54 of 23.
# Usage: scripts/reproduce_cifar10_int4.sh DATA_ROOT [--jobs N …]. Running it again resumes.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_cifar10_int4.sh DATA_ROOT [options of autosample ablate]}")
source "$(dirname "$0")/setup.sh" ablate
for grid in cifar10_5conv_int4 cifar10_5conv_int4_16x; do
  autosample ablate "ablation/$grid" --root "$data" "${@:2}"
done
