#!/usr/bin/env bash
# Makes the table of spoken digits (raw audio). DATA_ROOT contains fsdd/recordings/.
# Expected: 150 runs of 8 epochs, 150 s each in the published records: six core-hours on an AMD EPYC with both cores busy;
# --jobs 2 halves this.
# Usage: scripts/reproduce_spoken_digits.sh DATA_ROOT [--jobs N …]. Running it again resumes.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_spoken_digits.sh DATA_ROOT [options of autosample ablate]}")
source "$(dirname "$0")/setup.sh" ablate
exec autosample ablate ablation/spoken_digits --root "$data" "${@:2}"
