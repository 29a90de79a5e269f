#!/usr/bin/env bash
# Runs the tests that interrupt, stop, kill or starve a run, again and again, beside a busy loop on every core: none of them may depend on how
# fast the machine is. Builds first. Ends with how often each test passed.
#
#   scripts/test-busy.sh [RUNS]
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

runs=${1:-20}
integration=(
  cache_command::a_collection cache_command::nothing_is_deleted_while cache_command::what_no_run_refers
  commands::a_forced_stage_that_is_not_cached commands::a_killed_run commands::a_run_that_is_asked_to_end commands::the_cells_of_a_killed
  doctor::a_run_at_work doctor::damage faults::memory kills:: resume::a_killed_run resume::an_interrupted_run run_folder::a_run_ two_runs::
)
unit=(cache::lease:: fetch:: weights_are_hashed_once)
log=$(mktemp)
loops=()
end_loops() {
  ((${#loops[@]} == 0)) || kill "${loops[@]}" 2>/dev/null || true
  rm -f -- "$log"
}
trap end_loops EXIT

cargo test --release --locked --no-run
for ((core = 0; core < $(nproc); core++)); do
  (while :; do :; done) &
  loops+=($!)
done

failed=0
for ((run = 1; run <= runs; run++)); do
  started=$SECONDS status=0
  cargo test --release --locked --test integration -- "${integration[@]}" >>"$log" 2>&1 || status=$?
  cargo test --release --locked --lib -- "${unit[@]}" >>"$log" 2>&1 || status=$?
  ((status == 0)) || failed=$((failed + 1))
  printf 'test-busy: run %d of %d: %s after %d s\n' "$run" "$runs" "$([[ $status == 0 ]] && echo passed || echo failed)" $((SECONDS - started))
done
grep -E '^test .* (ok|FAILED)$' "$log" | sort | uniq -c | sort -n
if ((failed > 0)); then
  cp -- "$log" target/test-busy.log 2>/dev/null || cp -- "$log" /tmp/test-busy.log
  printf 'test-busy: %d of %d runs failed; what they said is in target/test-busy.log\n' "$failed" "$runs" >&2
  exit 1
fi
printf 'test-busy: %d runs passed\n' "$runs"
