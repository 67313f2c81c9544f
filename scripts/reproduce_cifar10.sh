#!/usr/bin/env bash
# Makes the table of CIFAR-10 on the 5-conv net. DATA_ROOT contains cifar10/ or cifar-10-batches-py/.
# Expected: 51 runs of 100 epochs, not timed yet. Needs a GPU; several runs fit on it at once (--jobs 3).
# Usage: scripts/reproduce_cifar10.sh DATA_ROOT [--jobs N …]. Running it again resumes.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_cifar10.sh DATA_ROOT [options of autosample ablate]}")
source "$(dirname "$0")/setup.sh" ablate
exec autosample ablate ablation/cifar10_5conv --root "$data" "${@:2}"
