# `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# More servers to test with, separated by spaces: programs, folders with a program `server`, or
# folders of such folders. See also `make matrix`.
SERVERS ?=
export CARGO ?= cargo

# The folder that cargo builds into, as an absolute path for scripts and tests in any folder.
export CARGO_TARGET_DIR := $(shell tools/target.sh)

# Limits of the long runs: minutes of `make model`, seconds of `make chaos`, calls of `make fuzz`, the
# seed of these two, and seconds for each part of `make fuzz-core`.
MINUTES ?= 10
SECONDS ?= 60
CALLS ?= 1000000
SEED ?=
FUZZ_SECONDS ?= 300

# The installed server, with which all tests run first.
installed = $$(tools/setup.sh which)

# Features of the debug build that only tests use.
for-tests = inject-panic,break-rules

.PHONY: build
build: need-build ## Build the module and the command: target/release/libgpulock.so and gpulock
	$(CARGO) build --release --locked -p gpulock -p gpulock-cli

.PHONY: run
run: build need-server ## Start a server with the module and redis.conf in the foreground
	@tools/run.sh

.PHONY: check
check: lint under-test ## For daily use: lints, unit tests, tests on one server
	$(CARGO) test --locked -q -p gpulock-core
	$(CARGO) test --locked -q -p gpulock-model --test random_scenarios
	$(CARGO) test --locked -q -p gpulock --lib
	SERVERS="$(installed)" $(CARGO) test --locked -q -p gpulock --test server -- --quiet

.PHONY: test
test: need-tests lint under-test ## All tests: lints, units, the installed server and SERVERS=, examples
	tools/test.sh
	$(CARGO) clippy --locked -q -p gpulock --all-targets --features $(for-tests) -- -D warnings
	SERVERS="$(installed) $(SERVERS)" $(CARGO) test --locked --workspace
	@$(MAKE) --no-print-directory examples deploy python

.PHONY: model
model: need-build ## Explore all states of the rules for MINUTES= on two cores, and print the coverage
	$(CARGO) run --locked --release -q -p gpulock-model -- --minutes $(MINUTES) --jobs 2

.PHONY: matrix
matrix: under-test ## Run the server tests on six releases of Redis and Valkey, in target/servers
	tools/servers.sh target/servers
	SERVERS=target/servers $(CARGO) test --locked -p gpulock -p gpulock-testkit -p gpulock-chaos

.PHONY: chaos
chaos: build need-server ## Test the installed server under load and faults, with a checker (SEED=, SECONDS=)
	$(CARGO) run --release --locked -q -p gpulock-chaos -- \
		--seed $(or $(SEED),1) --seconds $(SECONDS) --server "$(installed)"

.PHONY: fuzz
fuzz: build need-server ## Send a million random calls, valid and invalid (CALLS=, SEED=)
	SERVERS="$(installed) $(SERVERS)" GPULOCK_FUZZ="$(CALLS)" GPULOCK_SEED="$(SEED)" \
		$(CARGO) test --locked -p gpulock --test server input::fuzz -- \
			--nocapture --test-threads=1

# The core forbids unsafe code, so a sanitizer would find nothing. Without one, the stable toolchain
# is sufficient.
.PHONY: fuzz-core
fuzz-core: need-build need-fuzz ## Fuzz the parsers and the rules, guided by coverage (FUZZ_SECONDS=)
	@for part in requests patterns steps; do \
		$(CARGO) fuzz run --sanitizer none --target-dir target/fuzz $$part -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=2048 -print_final_stats=1 \
			-dict=fuzz/words.dict || exit 1; \
	done

.PHONY: memory
memory: under-test ## Run the server tests under valgrind, for half an hour or more
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

.PHONY: python-matrix
python-matrix: build need-server ## Test the Python package with Python 3.9 to 3.13 and several redis-py (needs network)
	@tools/setup.sh examples
	clients/python/matrix.sh "$(installed)" $(SERVERS)

.PHONY: deploy
deploy: build need-server ## Test deploy/: the alerts, and the units, settings and programs in the package
	-@tools/setup.sh cli
	-@tools/setup.sh deb
	@GPULOCK_SERVER="$$(realpath -s "$(installed)")" deploy/test.sh

.PHONY: deb
deb: build ## Build a Debian package, target/debian/gpulock_*.deb, and check it with lintian
	@tools/setup.sh deb
	@deploy/package.sh

.PHONY: bench
bench: build need-server ## Measure against other locks, on the installed server and SERVERS=
	@tools/setup.sh bench
	$(CARGO) build --release --locked -p gpulock-bench
	@tools/bench.sh "$(installed)" $(SERVERS)

.PHONY: bench-docs
bench-docs: need-build ## Update docs/benchmarks.md and its plots from the results of `make bench`
	@tools/setup.sh bench
	$(CARGO) build --release --locked -p gpulock-bench
	@tools/bench.sh --docs

.PHONY: lint
lint: need-build ## Check the format, lints (clippy, shellcheck), spelling and dependencies
	@tools/setup.sh lint
	-@tools/setup.sh checks
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --locked -q --workspace --all-targets -- -D warnings
	@tools/lint.sh

# Private items are included, and may be linked to: none of the crates is published as a library. In
# two steps, because the library `gpulock` and the program `gpulock` would have the same page.
.PHONY: docs
docs: export RUSTDOCFLAGS := -D warnings -A rustdoc::private-intra-doc-links
docs: need-build ## Build the documentation of the Rust code, warnings are errors
	$(CARGO) doc --locked -q --no-deps --document-private-items -p gpulock-cli
	$(CARGO) doc --locked -q --no-deps --document-private-items --workspace --exclude gpulock-cli

.PHONY: deny
deny: ## Check the dependencies: advisories, licences, duplicates, sources (needs network)
	@tools/setup.sh deny
	PATH="$$PWD/target/tools/bin:$$PATH" $(CARGO) deny --workspace --locked check --hide-inclusion-graph

.PHONY: msrv
msrv: need-build ## Build with the oldest supported Rust, if its toolchain is installed
	@tools/msrv.sh

.PHONY: clean
clean: ## Remove target/: builds, unpacked servers, data of `make run`
	rm -rf target

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The two builds that the server tests load: the release build, and a debug build in which tests can
# inject panics and break rules.
.PHONY: under-test
under-test: build need-server
	$(CARGO) build --locked -p gpulock --features $(for-tests)

.PHONY: need-server
need-server:
	@tools/setup.sh server

# The programs that the tests of the workspace need. Tests that need a missing program of the set
# `cli` are SKIPPED.
.PHONY: need-tests
need-tests:
	@tools/setup.sh tests
	-@tools/setup.sh cli

.PHONY: need-fuzz
need-fuzz:
	@$(CARGO) fuzz --version >/dev/null 2>&1 && \
		echo 'int main() {}' | c++ -x c++ -o /dev/null - 2>/dev/null || { \
		echo "requires cargo-fuzz and c++: run cargo install --locked cargo-fuzz, and install g++" >&2; \
		exit 1; }

.PHONY: need-build
need-build:
	@tools/setup.sh build
