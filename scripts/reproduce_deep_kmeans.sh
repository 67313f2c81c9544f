#!/usr/bin/env bash
# Makes the table of Deep k-Means on CIFAR-10: a small wide residual net, clustered at 10x, 20x and 45x.
# DATA_ROOT contains cifar10/ or cifar-10-batches-py/.
# Expected: 57 runs, most of which start from one of four dense nets per seed. It has not run as a whole, so its time is
# not known: about two core-hours.
# Usage: scripts/reproduce_deep_kmeans.sh DATA_ROOT [--jobs N …]. Running it again resumes.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_deep_kmeans.sh DATA_ROOT [options of autosample ablate]}")
source "$(dirname "$0")/setup.sh" ablate
autosample ablate ablation/deep_kmeans_cifar10 --root "$data" "${@:2}"
