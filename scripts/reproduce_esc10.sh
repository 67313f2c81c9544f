#!/usr/bin/env bash
# Makes the tables of ESC-10 on SoundNet-8, five folds, with summaries in float32 and at 8 bits. DATA_ROOT contains ESC-10/
# or ESC-50/.
# Expected: 115 runs of 10 epochs, 160 s each in the published records: five core-hours on an AMD EPYC; then 50 more runs of
# a minute or two. 100 epochs take ten times as long: use a GPU.
# Usage: scripts/reproduce_esc10.sh DATA_ROOT [--jobs N …]. Running it again resumes.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_esc10.sh DATA_ROOT [options of autosample ablate]}")
source "$(dirname "$0")/setup.sh" ablate
for grid in esc10 esc10_int8; do
  autosample ablate "ablation/$grid" --root "$data" "${@:2}"
done
