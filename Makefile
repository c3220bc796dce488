# `make help` lists what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# More servers to test against: programs, folders with a program `server`, or folders of
# such folders, parted by spaces; see also `make matrix`.
SERVERS ?=
CARGO ?= cargo

# How long `make model` explores.
MINUTES ?= 10

# The tests have the installed server first.
installed = $$(tools/setup.sh which)

.PHONY: build
build: need-cargo ## Build the module: target/release/libgpulock.so
	@tools/setup.sh build
	$(CARGO) build --release --locked

.PHONY: run
run: build need-server ## Start a server with the module in the foreground, from redis.conf
	@tools/run.sh

.PHONY: check
check: lint under-test ## What to run all day: lints, the rules, one server
	$(CARGO) test --locked -q -p gpulock-core
	$(CARGO) test --locked -q -p gpulock-model --test random_steps
	SERVERS="$(installed)" $(CARGO) test --locked -q -p gpulock

.PHONY: test
test: lint under-test ## Everything: lints, units, the installed server and SERVERS=, examples
	$(CARGO) clippy --locked -q -p gpulock --all-targets --features inject-panic -- -D warnings
	SERVERS="$(installed) $(SERVERS)" $(CARGO) test --locked --workspace
	@$(MAKE) --no-print-directory examples

.PHONY: model
model: need-cargo ## The rules, explored exhaustively: MINUTES=10 on two cores, and a table of how far
	$(CARGO) run --locked --release -q -p gpulock-model -- --minutes $(MINUTES) --jobs 2

.PHONY: matrix
matrix: under-test ## The server tests on six releases of Redis and Valkey, unpacked to target/servers
	tools/servers.sh target/servers
	SERVERS=target/servers $(CARGO) test --locked -p gpulock -p gpulock-testkit

.PHONY: examples
examples: build need-server ## Run the tests of the examples (each examples/*/test.sh)
	@tools/setup.sh examples
	@for test in examples/*/test.sh; do \
		[ -e "$$test" ] || continue; \
		echo "$$test"; \
		GPULOCK_SERVER="$$(realpath -s "$(installed)")" "$$test" || exit 1; \
	done

.PHONY: bench
bench: build need-server ## Measure beside peers, the installed server and SERVERS=, into target/bench
	@tools/setup.sh bench
	$(CARGO) build --release --locked -p gpulock-bench
	@tools/bench.sh "$(installed)" $(SERVERS)

.PHONY: bench-docs
bench-docs: need-cargo ## Renew docs/benchmarks.md and its plots from what `make bench` measured
	$(CARGO) build --release --locked -p gpulock-bench
	target/release/gpulock-bench report target/bench/*.json \
		--into docs/benchmarks.md --plots docs/benchmarks

.PHONY: lint
lint: need-cargo ## Formatting and clippy, warnings are errors
	@tools/setup.sh build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked -q --workspace --all-targets -- -D warnings

.PHONY: clean
clean: ## Remove target/: builds, unpacked servers, the data of `make run`
	rm -rf target

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Both builds that the server tests load: the module itself, and the one with panics to
# inject, in the debug profile.
.PHONY: under-test
under-test: build need-server
	$(CARGO) build --locked --features inject-panic

.PHONY: need-server
need-server:
	@tools/setup.sh server

.PHONY: need-cargo
need-cargo:
	@command -v $(CARGO) >/dev/null || { \
		echo "$(CARGO) is missing: install Rust 1.88 or newer (rustup brings it)" >&2; exit 1; }
