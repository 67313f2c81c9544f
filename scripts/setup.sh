# The other scripts source this file. It makes .venv beside pyproject.toml and installs autosample into it, once.
# Needs Python 3.11 or newer (set PYTHON to choose one). Usage: source scripts/setup.sh EXTRA
# EXTRA is an extra of pyproject.toml, several separated by commas, or "base" for none. Always give it: otherwise a
# sourced file sees the arguments of its caller.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# packages are compiled once, not at every start
unset PYTHONDONTWRITEBYTECODE

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  echo "setup: Python 3.11 or newer is needed and none was found: install one, or set PYTHON=/path/to/python" >&2
  return 1
}

made_elsewhere() { # a copied or moved environment would run the code of the folder that it was made in
  local home
  home=$(sed -nE "s/^ *(export )?VIRTUAL_ENV=[\"']?(\/[^\"']*).*/\2/p" .venv/bin/activate 2>/dev/null | head -n 1)
  [ -n "$home" ] && [ ! "$home" -ef .venv ]
}

install() { # EXTRA
  local target="." stamp=".venv/.installed-$1" python
  [ "$1" = base ] || target=".[$1]"
  if made_elsewhere; then
    echo "setup: .venv was made for another folder; it is made anew"
    rm -rf .venv
  fi
  if [ -f "$stamp" ] && [ ! pyproject.toml -nt "$stamp" ]; then
    return
  fi
  python=$(find_python) || return 1
  [ -x .venv/bin/python ] || "$python" -m venv .venv || {
    echo "setup: $python cannot make a virtual environment: install its venv module (Debian: python3-venv)" >&2
    return 1
  }
  # one call for all packages: torch and torchvision must come from the same index
  echo "setup: installing autosample and what it needs into .venv (up to 6 GB, a minute or more)"
  .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null # uv's own have no pip
  .venv/bin/python -m pip install --quiet --disable-pip-version-check uv &&
    VIRTUAL_ENV="$PWD/.venv" .venv/bin/uv pip install --quiet --editable "$target" || return 1
  touch "$stamp"
}

install "$1" || exit 1
export PATH="$PWD/.venv/bin:$PATH"
