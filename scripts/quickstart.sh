#!/usr/bin/env bash
# Sets up, then trains a small net on bundled digits, dense and with three presets. Results are in runs/quickstart/.
set -euo pipefail
source "$(dirname "$0")/setup.sh" ablate
exec autosample quickstart "$@"
