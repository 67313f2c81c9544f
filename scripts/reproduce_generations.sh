#!/usr/bin/env bash
# Makes the table of born-again networks on CIFAR-10: three generations of a small DenseNet and of its folded twin, and
# students of another kind. DATA_ROOT contains cifar10/ or cifar-10-batches-py/.
# Expected: 75 trainings of 20 or 30 epochs on 2,500 images, 1.5 to 4 minutes each on a core of an Intel Xeon: three hours.
# Usage: scripts/reproduce_generations.sh DATA_ROOT [--out FOLDER]. Running it again goes on.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_generations.sh DATA_ROOT [--out FOLDER]}")
source "$(dirname "$0")/setup.sh" ablate
python scripts/measure_generations.py "$data" "${@:2}"
python scripts/draw_methods.py generations
python scripts/update_docs.py
