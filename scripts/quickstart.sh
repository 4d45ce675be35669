#!/usr/bin/env bash
# Installs what is missing and runs all phases of MetaMix on scikit-learn's digits, on any CPU, without a network
# after the installation. Usage: scripts/quickstart.sh [WORKDIR], by default runs/digits in the current folder.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
workdir="${1:-./runs/digits}"
"$root/scripts/install.sh"

# glibc gives each big buffer back to the system when it is freed and maps it again, page by page, in the next
# step: 5 to 16 % of a training step on a CPU. These keep the memory. Read at start-up only, so they are set here.
export MALLOC_MMAP_THRESHOLD_=4000000000
export MALLOC_TRIM_THRESHOLD_=8000000000
export MALLOC_TOP_PAD_=268435456
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"  # No notes about CPU features.
export TF_USE_LEGACY_KERAS="${TF_USE_LEGACY_KERAS:-1}"  # TensorFlow then starts without Keras 3: 5 s of 19 saved.

exec "$root/.venv/bin/python" -m metamix_jax.main --config="$root/configs/digits.py" --workdir="$workdir"
