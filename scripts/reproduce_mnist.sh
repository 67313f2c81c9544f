#!/usr/bin/env bash
# The table of MNIST on 784-1000-10; DATA_ROOT holds MNIST/raw/*-ubyte.
# Expected: 51 runs of 60 epochs, about 7 core-hours (8 s an epoch on one core of a 2.5 GHz Xeon); halved by --jobs 2.
# Usage: scripts/reproduce_mnist.sh DATA_ROOT [--jobs N …]; stopped and called again it goes on where it was.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_mnist.sh DATA_ROOT [options of autosample ablate]}")
source "$(dirname "$0")/setup.sh"
exec autosample ablate configs/ablation/mnist.yaml --root "$data" "${@:2}"
