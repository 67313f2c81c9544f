#!/usr/bin/env bash
# Makes the tables of MNIST on 784-1000-10, in float32 and with summaries at 8 and 4 bits.
# DATA_ROOT contains MNIST/raw/*-ubyte.
# Expected: 57 runs of 10 epochs and 30 of 20, 3.5 core-hours on an AMD EPYC (3 to 35 s per epoch); --jobs 2 halves it.
# Usage: scripts/reproduce_mnist.sh DATA_ROOT [--jobs N …]. Running it again resumes.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_mnist.sh DATA_ROOT [options of autosample ablate]}")
source "$(dirname "$0")/setup.sh" ablate
for grid in mnist mnist_int8 mnist_int4; do
  autosample ablate "ablation/$grid" --root "$data" "${@:2}"
done
