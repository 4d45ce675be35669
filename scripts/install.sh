#!/usr/bin/env bash
# Makes .venv at the repository root and installs the locked dependencies and this package (editable) into it.
# Called by the other scripts; does nothing when .venv already matches the lock. $PYTHON: the interpreter to use.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-python3}"
stamp=.venv/installed-from
wanted="$(cat requirements.lock setup.cfg pyproject.toml | cksum)"
if [[ -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]]; then
  exit 0
fi

if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
  echo "install.sh: metamix_jax needs Python 3.11, 3.12 or 3.13, and '$python' is not one; name one with PYTHON=/path/to/python." >&2
  exit 1
fi

# The line of requirements.lock that pins package $1, without its comment.
pinned() { grep -o "^$1==[^ ;]*" requirements.lock; }

if [[ ! -x .venv/bin/python ]]; then
  "$python" -m venv .venv
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check "$(pinned uv)"
uv_install=(.venv/bin/uv pip install --quiet --python .venv/bin/python)
# Build tools first: packages that come as source are then built with the pinned ones, not with the newest.
"${uv_install[@]}" "$(pinned setuptools)" "$(pinned wheel)"
"${uv_install[@]}" --no-build-isolation -r requirements.lock
"${uv_install[@]}" --no-build-isolation --no-deps --editable .
echo "$wanted" > "$stamp"
