#!/usr/bin/env bash
# Makes a virtual environment, installs the locked dependencies and this package (editable) into it, and prints its
# interpreter. Called by the other scripts; does nothing when the environment already matches the lock.
# $PYTHON: the interpreter to make it with, by default python3. $VENV: its folder, by default .venv at the root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root="$PWD"

python="${PYTHON:-python3}"
venv="${VENV:-.venv}"
[[ "$venv" == /* ]] || venv="$root/$venv"
stamp="$venv/installed-from"
wanted="$(cat requirements.lock setup.cfg pyproject.toml metamix_jax/__init__.py | cksum)"

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# A PYTHON that does not run, or of another version than metamix_jax takes, is refused below.
if [[ -x "$venv/bin/python" && -n "${PYTHON:-}" ]] && version="$(version_of "$PYTHON")"; then
  if [[ "$(version_of "$venv/bin/python")" != "$version" ]]; then
    echo "install.sh: $venv has Python $(version_of "$venv/bin/python"), and '$PYTHON' is $version; name another" \
      "folder with VENV=.venv-$version." >&2
    exit 1
  fi
fi
if [[ -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]]; then
  echo "$venv/bin/python"
  exit 0
fi

if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
  echo "install.sh: metamix_jax needs Python 3.11, 3.12 or 3.13, and '$python' is not one; name one with" \
    "PYTHON=/path/to/python." >&2
  exit 1
fi

# The line of requirements.lock that pins package $1, without its comment.
pinned() { grep -o "^$1==[^ ;]*" requirements.lock; }

if [[ ! -x "$venv/bin/python" ]]; then
  "$python" -m venv "$venv"
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$(pinned uv)" >&2
uv_install=("$venv/bin/uv" pip install --quiet --python "$venv/bin/python")
# Build tools first: packages that come as source are then built with the pinned ones, not with the newest.
"${uv_install[@]}" "$(pinned setuptools)" "$(pinned wheel)" >&2
"${uv_install[@]}" --no-build-isolation -r requirements.lock >&2
"${uv_install[@]}" --no-build-isolation --no-deps --editable . >&2
# Byte code of what every command imports. Many containers set PYTHONDONTWRITEBYTECODE, and there each start would compile
# JAX and TensorFlow again, for seconds.
PYTHONDONTWRITEBYTECODE= "$venv/bin/python" -c \
  "import metamix_jax.data.datasets, metamix_jax.main, metamix_jax.reporting.page" >&2
echo "$wanted" > "$stamp"
echo "$venv/bin/python"
