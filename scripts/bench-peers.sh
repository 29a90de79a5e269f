#!/usr/bin/env bash
# Installs what `make bench` compares with, into the git-ignored third_party/peers: a Python environment with PyTorch, transformers and
# TransformerLens. It takes 6 GB of disk, since PyTorch's wheel for Linux wants the CUDA libraries. Safe to repeat.
#
#   scripts/bench-peers.sh
set -euo pipefail
export LC_ALL=C

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd -P)
mkdir -p -- "$root/third_party"
# The real path, in case third_party is a link: an environment remembers where it was made.
environment=$(cd -- "$root/third_party" >/dev/null && pwd -P)/peers
# gguf is what transformers reads GGUF files with.
packages=(torch==2.11.0 transformers==5.23.0 transformer_lens==4.3.0 gguf==0.19.0)

say() { printf 'bench-peers: %s\n' "$1"; }

# fail WHAT-WENT-WRONG WHAT-TO-DO
fail() {
  printf 'bench-peers: %s\n       %s\n' "$1" "$2" >&2
  exit 1
}

# The stamp is written last: an interrupted installation is done again.
is_there() { [[ -x $environment/bin/python && $(cat -- "$environment/stamp" 2>/dev/null) == "${packages[*]}" ]]; }

install() {
  local log=$environment/pip.log
  rm -rf -- "$environment"
  python3 -m venv "$environment" ||
    fail "cannot make a Python environment in \`$environment\`" 'install the Python module `venv` (Debian, Ubuntu: `apt-get install python3-venv`)'
  say "installing ${packages[*]}: 3 GB to download"
  nice "$environment/bin/python" -m pip install --no-cache-dir --disable-pip-version-check "${packages[@]}" >"$log" 2>&1 ||
    fail "pip failed: \`$(grep ERROR "$log" | tail -n 1)\`" "see \`$log\`; then run this again"
  printf '%s\n' "${packages[*]}" >"$environment/stamp"
}

command -v python3 >/dev/null || fail 'the command `python3` is missing' 'install Python 3.10 or newer'
if is_there; then
  say "already there (third_party/peers)"
else
  install
  say "$(du -sm -- "$environment" | cut -f1) MB in third_party/peers, $SECONDS s"
fi
