#!/usr/bin/env bash
# Headless Chromium for the tests of report.html: Debian's `chromium`, and `pdftoppm` (poppler-utils), which turns the printed page into a
# picture. Safe to repeat. An existing browser wins: DIAL_CHROMIUM=/path/to/chromium.
set -euo pipefail

say() { printf 'setup-browser: %s\n' "$*"; }
fail() {
  printf 'setup-browser: %s\n    %s\n' "$1" "$2" >&2
  exit 1
}

if [[ -n ${DIAL_CHROMIUM-} ]]; then
  [[ -x $DIAL_CHROMIUM ]] || fail "DIAL_CHROMIUM is \`$DIAL_CHROMIUM\`, which cannot be run" 'name a Chromium or Chrome, or unset it'
  say "using DIAL_CHROMIUM=$DIAL_CHROMIUM"
  exit 0
fi

missing=()
command -v chromium >/dev/null || missing+=(chromium)
command -v pdftoppm >/dev/null || missing+=(poppler-utils)
if ((${#missing[@]} == 0)); then
  say "$(chromium --version 2>/dev/null | head -1 || echo chromium): already there"
  exit 0
fi

command -v apt-get >/dev/null ||
  fail "\`${missing[*]}\` is missing, and this machine has no apt-get to install it" \
    'install Chromium and name it with DIAL_CHROMIUM=/path/to/chromium; the tests of report.html need it'
if ((EUID == 0)); then
  as_root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
  as_root=(sudo -n)
else
  fail "\`${missing[*]}\` is missing, and installing it takes root" "run \`sudo apt-get install ${missing[*]}\`, then this again"
fi
say "installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f -- "$log"' EXIT
if ! { "${as_root[@]}" apt-get update && DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -5 "$log" >&2
  fail "\`${missing[*]}\` could not be installed" "check the network, then run \`apt-get install ${missing[*]}\` as root"
fi
say "$(chromium --version 2>/dev/null | head -1): installed"
