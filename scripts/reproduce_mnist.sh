#!/usr/bin/env bash
# The table of MNIST on 784-1000-10; DATA_ROOT holds MNIST/raw/*-ubyte.
# Expected: 51 runs of 10 epochs, about an hour on one core of an AMD EPYC (5 to 10 s an epoch); halved by --jobs 2.
# Usage: scripts/reproduce_mnist.sh DATA_ROOT [--jobs N …]; stopped and called again it goes on where it was.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_mnist.sh DATA_ROOT [options of autosample ablate]}")
source "$(dirname "$0")/setup.sh"
exec autosample ablate configs/ablation/mnist.yaml --root "$data" "${@:2}"
