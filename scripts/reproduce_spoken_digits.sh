#!/usr/bin/env bash
# The table of spoken digits (raw audio); DATA_ROOT holds fsdd/recordings/.
# Expected: 75 runs of 16 epochs, about 5 core-hours (15 s an epoch on one core of a 2.5 GHz Xeon); halved by --jobs 2.
# Usage: scripts/reproduce_spoken_digits.sh DATA_ROOT [--jobs N …]; stopped and called again it goes on where it was.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_spoken_digits.sh DATA_ROOT [options of autosample ablate]}")
source "$(dirname "$0")/setup.sh"
exec autosample ablate configs/ablation/spoken_digits.yaml --root "$data" "${@:2}"
