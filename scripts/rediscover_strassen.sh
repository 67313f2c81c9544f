#!/usr/bin/env bash
# Learns Strassen's algorithm from examples: 2×2 matrices by 7 multiplications. Prints the share of restarts that find
# an exact algorithm.
# Expected: half a minute on one core for 100 restarts, which train side by side.
# Usage: scripts/rediscover_strassen.sh [--restarts N] [--products R] [--pull P] [--seed S]
set -euo pipefail
source "$(dirname "$0")/setup.sh" base
python "$(dirname "$0")/rediscover_strassen.py" "$@"
