#!/usr/bin/env bash
# Makes the table of CIFAR-10 on ResNet-18. DATA_ROOT contains cifar10/ or cifar-10-batches-py/.
# Expected: 30 runs of 200 epochs in bfloat16, not timed yet. Needs a GPU.
# Usage: scripts/reproduce_resnet18.sh DATA_ROOT [--jobs N …]. Running it again resumes.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_resnet18.sh DATA_ROOT [options of autosample ablate]}")
source "$(dirname "$0")/setup.sh" ablate
exec autosample ablate ablation/resnet18_cifar10 --root "$data" "${@:2}"
