# Everything a fresh machine needs is Rust, Python 3 with pip, a C++ compiler and this file.
# Each target is safe to repeat: what is there already is left alone.

dial := $(or $(CARGO_TARGET_DIR),target)/release/dial

.PHONY: help run test test-all busy fuzz bench bench-scale check setup

help:
	@echo 'make run     set up, build, and run the study pipelines/quickstart.toml'
	@echo 'make test    set up, build, and run the tests, but for those that take a browser, other programs or minutes'
	@echo 'make test-all  all of them'
	@echo 'make busy    run the tests that interrupt a run, 20 times, beside a busy loop on every core (an hour; BUSY_RUNS=3)'
	@echo 'make fuzz    read odd and hostile inputs, others every time (FUZZ_SECONDS=60 for each reader, or'
	@echo '             FUZZ_TARGET=gguf for one; FUZZ_TARGET=gguf FUZZ_INPUT=<file> for one input that was kept)'
	@echo 'make bench   time the standard study (15 minutes; see benches/study/main.rs)'
	@echo 'make bench-scale  time planning and finding in a study of 400,000 cells (a minute)'
	@echo 'make check   formatting and lints'
	@echo 'make setup   fetch libtorch and the quickstart model into third_party/'

# What is downloaded comes beside what is compiled: crates beside libtorch, the model beside the build.
run:
	cargo fetch --locked --quiet & scripts/setup.sh libtorch && wait
	scripts/setup.sh model & cargo build --release --locked && wait $$!
	$(dial) run pipelines/quickstart.toml

# The release profile, so that the tests share their dependencies with `make run`.
test: setup
	cargo test --release --locked -- --skip kills:: --skip fuzz:: --skip schema:: --skip browser:: --skip export::validator::

# The tests of report.html drive a headless Chromium; its screenshots go to target/report/. Those of the schema ask two validators, those of
# shared files a third.
test-all: setup
	scripts/test-setup.sh
	scripts/setup.sh validators
	scripts/setup-browser.sh
	cargo test --release --locked

busy: setup
	scripts/test-busy.sh $(or $(BUSY_RUNS),20)

# A part of the tests reads the same inputs every time; this reads new ones, and keeps those that go wrong in target/fuzz-failures/.
fuzz: setup
	DIAL_FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) DIAL_FUZZ_INPUT=$(FUZZ_INPUT) \
		cargo test --release --locked --test integration fuzz::read::$(FUZZ_TARGET) -- --nocapture $(if $(FUZZ_TARGET),--exact)

# The release profile again; the figures go to target/bench/study.json.
bench: setup
	cargo bench --profile release --locked --bench study

bench-scale: setup
	cargo bench --profile release --locked --bench scale

check:
	cargo fmt --check
	scripts/setup.sh libtorch
	cargo clippy --release --locked --all-targets -- -D warnings

setup:
	scripts/setup.sh all
