#!/usr/bin/env bash
# Installs what is missing, checks the code (scripts/lint.sh) and runs the tests but the slow ones and those that need
# PyTorch. Arguments go to pytest and win: scripts/test.sh -m slow, scripts/test.sh tests/test_data.py -k epoch.
# On another version of Python: VENV=.venv-3.12 PYTHON=python3.12 scripts/test.sh. Coverage: scripts/test.sh --cov.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="$(scripts/install.sh)"
scripts/lint.sh
# By file: a file's module fixtures, and its import of TensorFlow (seconds), are then paid for once.
# A worker that dies ends the tests: pytest-xdist 3.8 would wait for ever for what it hands to the next by file.
exec "$python" -m pytest -n 2 --dist loadfile --max-worker-restart=0 -m "not slow and not torch" "$@"
