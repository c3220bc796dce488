# `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# More servers to test with, separated by spaces: programs, folders with a program `server`, or
# folders of such folders. See also `make matrix`.
SERVERS ?=
export CARGO ?= cargo

# What tools/setup.sh found elsewhere than on PATH: Rust, and a cargo that finds libclang.
export PATH := $(CURDIR)/target/tools/rust:$(PATH)

# The folder that cargo builds into, as an absolute path for scripts and tests in any folder. The
# shell function of older makes does not use the PATH above.
export CARGO_TARGET_DIR := $(shell PATH="$(PATH)" tools/target.sh)

# cargo and the tests use all cores anyway. With -j, tests of time would disturb each other.
.NOTPARALLEL:

# How many tests of a program run at the same time. Most of them wait for a timer or a server.
export RUST_TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))

# Limits of the long runs: minutes and random scenarios of `make model`, seconds of `make chaos`, calls
# of `make fuzz`, the seed of these two, and seconds for each part of `make fuzz-core`.
MINUTES ?= 10
SCENARIOS ?= 500000
SECONDS ?= 60
CALLS ?= 1000000
SEED ?=
FUZZ_SECONDS ?= 300

# The installed server, with which all tests run first.
installed = $$(tools/setup.sh which)

# Features of the debug build that only tests use.
for-tests = gpulock/inject-panic,gpulock/break-rules

# The sets of programs that a target needs (tools/setup.sh), unless it is only `build`, and those
# without which a part of it is SKIPPED. All that the goals need is installed first, at once.
sets-run = build server
sets-check = build server
sets-test = build server tests python documents examples
sets-matrix = build server
sets-chaos = build server
sets-fuzz = build server
sets-memory = build server memory
sets-examples = build server examples
sets-python = build server python
sets-documents = build server documents
sets-python-matrix = build server python
sets-deploy = build server
sets-kubernetes = build server python
sets-arm64 = build server deb
sets-deb = build deb
sets-try-package = build deb
sets-release = build python deb
sets-release-check = build python deb
sets-bench = build server bench
sets-bench-docs = build bench
sets-deny = deny
optional-check = lint
optional-test = lint cli browser deb node
optional-lint = lint
optional-examples = node
optional-deploy = cli deb
sets = $(sort $(foreach goal,$(MAKECMDGOALS),$(or $(sets-$(goal)),build)))
optional = $(filter-out $(sets),$(sort $(foreach goal,$(MAKECMDGOALS),$(optional-$(goal)))))

.PHONY: module
module: need ## Build only the module, without the command: target/release/libgpulock.so
	$(CARGO) build --release --locked -p gpulock

.PHONY: build
build: need ## Build the module and the command: target/release/libgpulock.so and gpulock
	$(CARGO) build --release --locked -p gpulock -p gpulock-cli

.PHONY: run
run: module ## Start a server with the module and redis.conf in the foreground
	@tools/run.sh

.PHONY: check
check: need lint under-test ## For daily use: lints, unit tests, tests on one server
	$(CARGO) test --locked -q -p gpulock-core
	$(CARGO) test --locked -q -p gpulock-model --test random_scenarios
	$(CARGO) test --locked -q -p gpulock --lib
	SERVERS="$(installed)" $(CARGO) test --locked -q -p gpulock --test server -- --quiet

.PHONY: test
test: need lint under-test ## All tests: lints, units, the installed server and SERVERS=, examples
	tools/test.sh
	tools/release/test.sh
	SERVERS="$(installed):$(SERVERS)" $(CARGO) test --locked --workspace
	@$(MAKE) --no-print-directory sets= examples deploy python documents

.PHONY: model
model: need ## Run SCENARIOS= random scenarios of the rules, explore all states for MINUTES= on two cores
	PROPTEST_CASES=$(SCENARIOS) $(CARGO) test --locked --release -q -p gpulock-model --test random_scenarios
	$(CARGO) run --locked --release -q -p gpulock-model -- --minutes $(MINUTES) --jobs 2

.PHONY: matrix
matrix: under-test ## Run the server tests on six releases of Redis and Valkey, in target/servers
	tools/servers.sh target/servers
	SERVERS=target/servers $(CARGO) test --locked -p gpulock -p gpulock-testkit -p gpulock-chaos

.PHONY: chaos
chaos: build ## Test the installed server under load and faults, with a checker (SEED=, SECONDS=)
	$(CARGO) run --release --locked -q -p gpulock-chaos -- \
		--seed $(or $(SEED),1) --seconds $(SECONDS) --server "$(installed)"

.PHONY: fuzz
fuzz: build ## Send a million random calls, valid and invalid (CALLS=, SEED=)
	SERVERS="$(installed):$(SERVERS)" GPULOCK_FUZZ="$(CALLS)" GPULOCK_SEED="$(SEED)" \
		$(CARGO) test --locked -p gpulock --test server input::fuzz -- \
			--nocapture --test-threads=1

# The core forbids unsafe code, so a sanitizer would find nothing. Without one, the stable toolchain
# is sufficient.
.PHONY: fuzz-core
fuzz-core: need need-fuzz ## Fuzz the parsers and the rules, guided by coverage (FUZZ_SECONDS=)
	@for part in requests patterns steps; do \
		$(CARGO) fuzz run --sanitizer none --target-dir target/fuzz $$part -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=2048 -print_final_stats=1 \
			-dict=fuzz/words.dict || exit 1; \
	done

.PHONY: memory
memory: under-test ## Run the server tests under valgrind, for half an hour or more
	SERVERS="$(installed):$(SERVERS)" tools/valgrind.sh

.PHONY: examples
examples: build ## Run the tests of the examples (each examples/*/test.sh)
	@for test in examples/*/test.sh; do \
		[ -e "$$test" ] || continue; \
		echo "$$test"; \
		GPULOCK_SERVER="$$(realpath -s "$(installed)")" "$$test" || exit 1; \
	done

.PHONY: python
python: build ## Lint, test and build the Python package, on the installed server and SERVERS=
	clients/python/test.sh "$(installed)" $(SERVERS)

.PHONY: python-matrix
python-matrix: build ## Test the Python package with Python 3.9 to 3.13 and several redis-py (needs network)
	clients/python/matrix.sh "$(installed)" $(SERVERS)

.PHONY: documents
documents: build ## Execute the command blocks of the documents, and compare their output
	tests/documents/test.sh "$(installed)"

.PHONY: deploy
deploy: build ## Test deploy/: the alerts, and the units, settings and programs in the package
	@GPULOCK_SERVER="$$(realpath -s "$(installed)")" deploy/test.sh

.PHONY: kubernetes
kubernetes: build ## Test deploy/kubernetes: schemas, and the containers without a cluster (as root)
	@GPULOCK_SERVER="$$(realpath -s "$(installed)")" deploy/kubernetes/test.sh

.PHONY: arm64
arm64: build ## Build both programs and the package for arm64, test them under emulation (as root; needs network)
	@GPULOCK_SERVER="$$(realpath -s "$(installed)")" tools/arm64.sh

.PHONY: deb
deb: build ## Build a Debian package, target/debian/gpulock_*.deb, and check it with lintian
	@deploy/package.sh

.PHONY: images
images: build ## Build the container images and start them with podman, as root (deploy/docker)
	deploy/docker/test.sh

.PHONY: try-package
try-package: build ## Test the Debian package in chroots of SUITES=, with their servers (needs root, network)
	@deploy/try-package.sh $(SUITES)

.PHONY: release
release: need ## Build the artefacts of a release: target/dist/gpulock-VERSION-linux-ARCH
	@tools/release/release.sh

.PHONY: release-check
release-check: need ## Check that this commit and its artefacts can be released
	@tools/release/check.sh

.PHONY: bench
bench: build ## Measure against other locks, on the installed server and SERVERS=
	$(CARGO) build --release --locked -p gpulock-bench
	@tools/bench.sh "$(installed)" $(SERVERS)

.PHONY: bench-docs
bench-docs: need ## Update docs/benchmarks.md and its plots from the results of `make bench`
	$(CARGO) build --release --locked -p gpulock-bench
	@tools/bench.sh --docs

.PHONY: lint
lint: need ## Check the format, lints (clippy, shellcheck), spelling and dependencies
	@tools/lint.sh --features $(for-tests)

# Private items are included, and may be linked to: none of the crates is published as a library. In
# two steps, because the library `gpulock` and the program `gpulock` would have the same page.
.PHONY: docs
docs: export RUSTDOCFLAGS := -D warnings -A rustdoc::private-intra-doc-links
docs: need ## Build the documentation of the Rust code, warnings are errors
	$(CARGO) doc --locked -q --no-deps --document-private-items -p gpulock-cli
	$(CARGO) doc --locked -q --no-deps --document-private-items --workspace --exclude gpulock-cli

.PHONY: deny
deny: need ## Check the dependencies: advisories, licences, duplicates, sources (needs network)
	PATH="$$PWD/target/tools/bin:$$PATH" $(CARGO) deny --workspace --locked check --hide-inclusion-graph

.PHONY: msrv
msrv: need ## Build with the oldest supported Rust, if its toolchain is installed
	@tools/msrv.sh

.PHONY: clean
clean: ## Remove target/: builds, unpacked servers, data of `make run`
	rm -rf target

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The two builds that the server tests load: the release build, and a debug build in which tests can
# inject panics and break rules.
.PHONY: under-test
under-test: build
	$(CARGO) build --locked -p gpulock --features $(for-tests)

.PHONY: need
need:
	@$(if $(sets),tools/setup.sh $(sets) $(if $(optional),--optional $(optional)))

.PHONY: need-fuzz
need-fuzz:
	@$(CARGO) fuzz --version >/dev/null 2>&1 && \
		echo 'int main() {}' | c++ -x c++ -o /dev/null - 2>/dev/null || { \
		echo "requires cargo-fuzz and c++: run cargo install --locked cargo-fuzz, and install g++" >&2; \
		exit 1; }
