#!/usr/bin/env bash
# The table of CIFAR-10 on 3072-1000-10, a check on data for which nothing was chosen. DATA_ROOT holds cifar10/ or
# cifar-10-batches-py/.
# Expected: 33 runs of 10 epochs, an hour and a half on a core of an AMD EPYC with bfloat16 instructions; halved by
# --jobs 2.
# Usage: scripts/reproduce_cifar10_mlp.sh DATA_ROOT [--jobs N …]; re-running resumes.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_cifar10_mlp.sh DATA_ROOT [options of autosample ablate]}")
source "$(dirname "$0")/setup.sh" ablate
autosample ablate ablation/cifar10_mlp --root "$data" "${@:2}"
