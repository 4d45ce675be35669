#!/usr/bin/env bash
# Installs what is missing, runs all phases of MetaMix on scikit-learn's digits, and measures how good the search was;
# on any CPU, without a network after the installation. Usage: scripts/quickstart.sh [WORKDIR], by default runs/digits in the current folder.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
workdir="${1:-./runs/digits}"
python="$("$root/scripts/install.sh")"

source "$root/scripts/cpu_environment.sh"

"$python" -m metamix_jax.main --config="$root/configs/digits.py" --workdir="$workdir"
exec "$python" "$root/scripts/search_quality.py" "$workdir" --config.num_random=100 --config.num_local=40
