#!/usr/bin/env bash
# Installs what is missing and runs all phases of MetaMix on scikit-learn's digits, on any CPU, without a network
# after the installation. Usage: scripts/quickstart.sh [WORKDIR], by default runs/digits in the current folder.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
workdir="${1:-./runs/digits}"
"$root/scripts/install.sh"

source "$root/scripts/cpu_environment.sh"
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"  # No notes about CPU features.
export TF_ENABLE_ONEDNN_OPTS="${TF_ENABLE_ONEDNN_OPTS:-0}"  # TensorFlow only reads data here; without its note about oneDNN.
export TF_USE_LEGACY_KERAS="${TF_USE_LEGACY_KERAS:-1}"  # TensorFlow then starts without Keras 3: 5 s of 19 saved.

exec "$root/.venv/bin/python" -m metamix_jax.main --config="$root/configs/digits.py" --workdir="$workdir"
