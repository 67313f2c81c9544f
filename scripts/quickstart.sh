#!/usr/bin/env bash
# Sets up, then trains a small net on bundled digits dense, strided, random and learned; results in runs/quickstart/.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}" # threads that wait actively crawl on cores that have other work too
exec autosample quickstart "$@"
