#!/usr/bin/env bash
# The table of ESC-10 on SoundNet-8, five folds; DATA_ROOT holds ESC-10/ or ESC-50/.
# Expected: 45 runs of 10 epochs, about 1.3 core-hours on an AMD EPYC; with 100 epochs, better on a GPU, ten times that.
# Usage: scripts/reproduce_esc10.sh DATA_ROOT [--jobs N …]; re-running resumes.
set -euo pipefail
data=$(realpath "${1:?usage: scripts/reproduce_esc10.sh DATA_ROOT [options of autosample ablate]}")
source "$(dirname "$0")/setup.sh" ablate
exec autosample ablate ablation/esc10 --root "$data" "${@:2}"
