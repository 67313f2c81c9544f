#!/usr/bin/env bash
# Makes the table of sum-product layers (StrassenNets) on CIFAR-10 with a small 5-conv net.
# DATA_ROOT contains cifar10/ or cifar-10-batches-py/.
# Expected: 42 runs of 3 epochs, 2 to 11 minutes each on a busy core of an Intel Xeon: three core-hours in all.
# Usage: scripts/reproduce_strassen.sh DATA_ROOT [--jobs N …]. Running it again resumes.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_strassen.sh DATA_ROOT [options of autosample ablate]}")
source "$(dirname "$0")/setup.sh" ablate
autosample ablate ablation/strassen_cifar10 --root "$data" "${@:2}"
