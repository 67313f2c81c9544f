#!/usr/bin/env bash
# CIFAR-10 on the 5-conv net at 64x, summaries at 4 bits, four epochs; DATA_ROOT holds cifar10/ or cifar-10-batches-py/.
# Expected: 12 runs of about 12 minutes on a core of an AMD EPYC with bfloat16 instructions; halved by --jobs 2.
# Usage: scripts/reproduce_cifar10_int4.sh DATA_ROOT [--jobs N …]; stopped and called again it goes on where it was.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_cifar10_int4.sh DATA_ROOT [options of autosample ablate]}")
source "$(dirname "$0")/setup.sh"
exec autosample ablate configs/ablation/cifar10_5conv_int4.yaml --root "$data" "${@:2}"
