#!/usr/bin/env bash
# The tables of MNIST on 784-1000-10, in float32 and with summaries at 8 and 4 bits; DATA_ROOT holds MNIST/raw/*-ubyte.
# Expected: 57 runs of 10 epochs and 30 of 20, three and a half core-hours on an AMD EPYC (3 to 35 s an epoch); halved by
# --jobs 2.
# Usage: scripts/reproduce_mnist.sh DATA_ROOT [--jobs N …]; re-running resumes.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_mnist.sh DATA_ROOT [options of autosample ablate]}")
source "$(dirname "$0")/setup.sh" ablate
for grid in mnist mnist_int8 mnist_int4; do
  autosample ablate "ablation/$grid" --root "$data" "${@:2}"
done
