# `make help` lists what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# More servers to test against: programs, folders with a program `server`, or folders of
# such folders, parted by spaces; see also `make matrix`.
SERVERS ?=
export CARGO ?= cargo

# Where cargo builds, absolute: scripts and tests look there, whatever folder they run in.
export CARGO_TARGET_DIR := $(shell tools/target.sh)

# The long runs: minutes of `make model`, seconds of `make chaos`, calls of `make fuzz`, the
# seed of both, seconds for each part of `make fuzz-core`.
MINUTES ?= 10
SECONDS ?= 60
CALLS ?= 1000000
SEED ?=
FUZZ_SECONDS ?= 300

# The tests have the installed server first.
installed = $$(tools/setup.sh which)

# What only a debug build for tests has.
for-tests = inject-panic,break-rules

.PHONY: build
build: need-build ## Build module and command: target/release/libgpulock.so and gpulock
	$(CARGO) build --release --locked -p gpulock -p gpulock-cli

.PHONY: run
run: build need-server ## Start a server with the module in the foreground, from redis.conf
	@tools/run.sh

.PHONY: check
check: lint under-test ## What to run all day: lints, the rules, one server
	$(CARGO) test --locked -q -p gpulock-core
	$(CARGO) test --locked -q -p gpulock-model --test random_steps
	$(CARGO) test --locked -q -p gpulock --lib
	SERVERS="$(installed)" $(CARGO) test --locked -q -p gpulock --test server -- --quiet

.PHONY: test
test: need-tests lint under-test ## Everything: lints, units, the installed server and SERVERS=, examples
	tools/test.sh
	$(CARGO) clippy --locked -q -p gpulock --all-targets --features $(for-tests) -- -D warnings
	SERVERS="$(installed) $(SERVERS)" $(CARGO) test --locked --workspace
	@$(MAKE) --no-print-directory examples deploy python

.PHONY: model
model: need-build ## The rules, explored exhaustively: MINUTES=10 on two cores, and a table of how far
	$(CARGO) run --locked --release -q -p gpulock-model -- --minutes $(MINUTES) --jobs 2

.PHONY: matrix
matrix: under-test ## The server tests on six releases of Redis and Valkey, unpacked to target/servers
	tools/servers.sh target/servers
	SERVERS=target/servers $(CARGO) test --locked -p gpulock -p gpulock-testkit -p gpulock-chaos

.PHONY: chaos
chaos: build need-server ## Load, faults and a checker on the installed server (SEED=, SECONDS=)
	$(CARGO) run --release --locked -q -p gpulock-chaos -- \
		--seed $(or $(SEED),1) --seconds $(SECONDS) --server "$(installed)"

.PHONY: fuzz
fuzz: build need-server ## A million calls, right, wrong and garbage (CALLS=, SEED=)
	SERVERS="$(installed) $(SERVERS)" GPULOCK_FUZZ="$(CALLS)" GPULOCK_SEED="$(SEED)" \
		$(CARGO) test --locked -p gpulock --test server input::fuzz -- \
			--nocapture --test-threads=1

# The core forbids unsafe code, so that there is nothing for a sanitizer to find: without one
# the stable toolchain will do.
.PHONY: fuzz-core
fuzz-core: need-build need-fuzz ## What reads a client's bytes, and the rules, guided by coverage
	@for part in requests patterns steps; do \
		$(CARGO) fuzz run --sanitizer none --target-dir target/fuzz $$part -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=2048 -print_final_stats=1 \
			-dict=fuzz/words.dict || exit 1; \
	done

.PHONY: memory
memory: under-test ## The server tests under valgrind, which takes half an hour or more
	@tools/setup.sh memory
	SERVERS="$(installed) $(SERVERS)" tools/valgrind.sh

.PHONY: examples
examples: build need-server ## Run the tests of the examples (each examples/*/test.sh)
	@tools/setup.sh examples
	@for test in examples/*/test.sh; do \
		[ -e "$$test" ] || continue; \
		echo "$$test"; \
		GPULOCK_SERVER="$$(realpath -s "$(installed)")" "$$test" || exit 1; \
	done

.PHONY: python
python: build need-server ## Lint, test and build the Python package, on the installed server and SERVERS=
	@tools/setup.sh examples
	clients/python/test.sh "$(installed)" $(SERVERS)

.PHONY: deploy
deploy: build need-server ## Check deploy/: alerts; and, out of the package, units, snippet, programs
	-@tools/setup.sh cli
	-@tools/setup.sh deb
	@GPULOCK_SERVER="$$(realpath -s "$(installed)")" deploy/test.sh

.PHONY: deb
deb: build ## A package for Debian: target/debian/gpulock_*.deb
	@tools/setup.sh deb
	@deploy/package.sh

.PHONY: bench
bench: build need-server ## Measure beside peers, the installed server and SERVERS=, into target/bench
	@tools/setup.sh bench
	$(CARGO) build --release --locked -p gpulock-bench
	@tools/bench.sh "$(installed)" $(SERVERS)

.PHONY: bench-docs
bench-docs: need-build ## Renew docs/benchmarks.md and its plots from what `make bench` measured
	$(CARGO) build --release --locked -p gpulock-bench
	"$(CARGO_TARGET_DIR)/release/gpulock-bench" report target/bench/*.json \
		--into docs/benchmarks.md --plots docs/benchmarks

.PHONY: lint
lint: need-build ## Formatting and clippy, warnings are errors
	@tools/setup.sh lint
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --locked -q --workspace --all-targets -- -D warnings

.PHONY: clean
clean: ## Remove target/: builds, unpacked servers, the data of `make run`
	rm -rf target

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Both builds that the server tests load: the module itself, and the one with panics to
# inject and rules to break, in the debug profile.
.PHONY: under-test
under-test: build need-server
	$(CARGO) build --locked --features $(for-tests)

.PHONY: need-server
need-server:
	@tools/setup.sh server

# What the tests of the workspace need; what is in `cli` some of them can do without, and
# are then SKIPPED.
.PHONY: need-tests
need-tests:
	@tools/setup.sh tests
	-@tools/setup.sh cli

.PHONY: need-fuzz
need-fuzz:
	@$(CARGO) fuzz --version >/dev/null 2>&1 && \
		echo 'int main() {}' | c++ -x c++ -o /dev/null - 2>/dev/null || { \
		echo "needs cargo-fuzz and c++: cargo install --locked cargo-fuzz, and g++" >&2; \
		exit 1; }

.PHONY: need-build
need-build:
	@tools/setup.sh build
