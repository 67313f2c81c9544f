#!/usr/bin/env bash
# Makes the tables of CIFAR-10 on timm's ResNet-18 with its 7x7 stem, four epochs at 51x, in float32 and with 8 bits per
# number. DATA_ROOT contains cifar10/ or cifar-10-batches-py/.
# Expected: 30 runs of 4 to 8 minutes, three hours on one core of an AMD EPYC with bfloat16 instructions (ten times as
# long without); --jobs 2 halves this.
# Usage: scripts/reproduce_resnet18_small.sh DATA_ROOT [--jobs N …]. Running it again resumes.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_resnet18_small.sh DATA_ROOT [options of autosample ablate]}")
source "$(dirname "$0")/setup.sh" ablate
for grid in resnet18_cifar10_small resnet18_cifar10_small_int8; do
  autosample ablate "ablation/$grid" --root "$data" "${@:2}"
done
