#!/usr/bin/env bash
# Installs what is missing and builds docs/ into the site site/, index.html first; a warning, such as a dead link, ends
# it. Arguments go to mkdocs build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="$(scripts/install.sh)"
# Without mkdocs-material's notice about a successor of mkdocs.
export NO_MKDOCS_2_WARNING=1
exec "$python" -m mkdocs build --quiet --strict "$@"
