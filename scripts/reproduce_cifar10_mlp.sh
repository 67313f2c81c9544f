#!/usr/bin/env bash
# Makes the table of CIFAR-10 on 3072-1000-10: a check on a net and data on which nothing was chosen.
# DATA_ROOT contains cifar10/ or cifar-10-batches-py/.
# Expected: 33 runs of 10 epochs, 1.5 hours on one core of an AMD EPYC with bfloat16 instructions; --jobs 2 halves this.
# Usage: scripts/reproduce_cifar10_mlp.sh DATA_ROOT [--jobs N …]. Running it again resumes.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_cifar10_mlp.sh DATA_ROOT [options of autosample ablate]}")
source "$(dirname "$0")/setup.sh" ablate
autosample ablate ablation/cifar10_mlp --root "$data" "${@:2}"
