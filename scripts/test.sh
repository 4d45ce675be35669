#!/usr/bin/env bash
# Installs what is missing and runs the tests but the slow ones and those that need PyTorch. Arguments go to pytest and win:
# scripts/test.sh -m slow, scripts/test.sh tests/test_data.py -k epoch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/install.sh
# By file: a file's module fixtures, and its import of TensorFlow (seconds), are then paid for once.
exec .venv/bin/python -m pytest -n 2 --dist loadfile -m "not slow and not torch" "$@"
