#!/usr/bin/env bash
# The table of CIFAR-10 on the 5-conv net; DATA_ROOT holds cifar10/ or cifar-10-batches-py/.
# Expected: 51 runs of 100 epochs: needs a GPU, where a few runs fit side by side (--jobs 3); not timed yet.
# Usage: scripts/reproduce_cifar10.sh DATA_ROOT [--jobs N …]; re-running resumes.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_cifar10.sh DATA_ROOT [options of autosample ablate]}")
source "$(dirname "$0")/setup.sh" ablate
exec autosample ablate ablation/cifar10_5conv --root "$data" "${@:2}"
