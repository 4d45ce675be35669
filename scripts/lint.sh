#!/usr/bin/env bash
# Installs what is missing and checks the code without running it: ruff, then the types of the package with pyrefly.
# Seconds; scripts/test.sh does this first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="$(scripts/install.sh)"
status=0
"${python%/*}/ruff" check --quiet --output-format=concise . || status=1
# The types of the packages that are installed for this interpreter.
"${python%/*}/pyrefly" check --output-format=min-text --python-interpreter-path "$python" || status=1
exit "$status"
