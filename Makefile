# What a developer and the build server run. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Everything downloaded or built lies here, outside the checkout.
export CRASHMONITOR_CACHE ?= $(HOME)/.cache/crashmonitor
export CARGO_TARGET_DIR ?= $(CRASHMONITOR_CACHE)/target
comma := ,
TOOLS := $(CRASHMONITOR_CACHE)/tools
CARGO_CYCLONEDX_VERSION := 0.5.9
CARGO_DENY_VERSION := 0.20.2
CARGO_FUZZ_VERSION := 0.13.2
INFERNO_VERSION := 0.12.8
MDBOOK_VERSION := 0.5.4
# Tests wait for services far longer than they compute, so more of them run at once than there are processors.
export RUST_TEST_THREADS ?= 6
# Without the tests that need a cluster or a browser.
NOT_APART := --exclude crashmonitor-cluster-tests --exclude crashmonitor-console-tests
# What the images hold: release, or dev for tests.
PROFILE ?= release
# Builds what is measured and what measures, and runs the latter.
BENCH = cargo build --release -p crashmonitor-worker -p crashmonitor-bench -p crashmonitor-testbed \
    $(addprefix --bin crashmonitor-,worker loadgen bench fetch-only) && \
    $(CARGO_TARGET_DIR)/release/crashmonitor-bench
# Has cargo compile the workspace with fail points: for `make faults` alone.
WITH_FAILPOINTS := RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/scripts/rustc-with-failpoints

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: deps
deps: run-deps ## Install what building and testing need (Debian, as root), and fetch Kafka, helm and promtool
	@scripts/fetch-chart-tools

# What a Kafka and a Redis on this machine need, and whoever builds what talks to them.
.PHONY: run-deps
run-deps:
	@scripts/install-deps
	@scripts/fetch-kafka

.PHONY: build
build: ## Build the worker and the load generator (release)
	cargo build --release -p crashmonitor-worker -p crashmonitor-bench
	@! grep -q CRASHMONITOR_FAILPOINT $(CARGO_TARGET_DIR)/release/crashmonitor-worker || \
	    { echo "the worker was built with fail points"; exit 1; }

.PHONY: install-cli
install-cli: ## Build kubectl-crashmonitor (release) and install it into ~/.cargo/bin, for `kubectl crashmonitor`
	cargo install --locked --path cli

.PHONY: test
test: deps lint ## Run everything that a change must pass: format, lints, all tests, on a real Kafka, Redis and Kubernetes
	cargo build --workspace --all-targets
	@scripts/images dev
	cargo test --workspace $(NOT_APART)
	@$(MAKE) --no-print-directory run-cluster-tests

.PHONY: run-cluster-tests
run-cluster-tests:
	@scripts/with-cluster $(MAKE) --no-print-directory on-cluster

# One after the other: helm refuses a definition that it did not install, and api_server installs one where there is none.
# Each test has pods that compute: no more at once than on two processors.
.PHONY: on-cluster
on-cluster: export RUST_TEST_THREADS := 2
on-cluster:
	cargo test --workspace --test cluster --test cluster_chart --test cluster_cli --test cluster_operator
	cargo test --workspace --test api_server

.PHONY: test-unit
test-unit: ## Run the tests that need no service
	cargo test --workspace --exclude crashmonitor-testbed $(NOT_APART)

.PHONY: test-services
test-services: deps ## Run the tests against a real Kafka and Redis (CRASHMONITOR_INPUT_READER=Librdkafka: all through it)
	cargo build --workspace --all-targets
	cargo test --workspace $(NOT_APART) --test '*'

.PHONY: test-cluster
test-cluster: deps ## Run the tests on a real Kubernetes, which stays up if it was before (UPDATE_GOLDEN=1: a new docs/cli-session.md)
	cargo build --workspace --all-targets
	@scripts/images dev
	@$(MAKE) --no-print-directory run-cluster-tests

.PHONY: test-commands
test-commands: deps ## Run the commands of the documentation that take minutes or a cluster (the others are in make test)
	@scripts/fetch-kafka tools
	cargo build --release -p crashmonitor-bench
	cargo build --workspace --all-targets
	@scripts/images dev
	CRASHMONITOR_LOADGEN=$(CARGO_TARGET_DIR)/release/crashmonitor-loadgen \
	    cargo test --workspace --test docs_commands -- --ignored
	@scripts/with-cluster cargo test --workspace --test cluster_docs

.PHONY: test-console
test-console: run-deps ## Try the console in a real browser, on a real Kafka and API server (UPDATE_GOLDEN=1: new pictures in docs/)
	@scripts/install-deps console
	@scripts/fetch-console-tools
	cargo build --workspace --bins
	cargo test --workspace --test console -- --nocapture

.PHONY: test-alerts
test-alerts: deps ## Fire every alert of the chart by a fault: a real Prometheus looks at real workers and a real operator
	@scripts/fetch-control-plane
	cargo build --workspace --bins
	cargo test --workspace --test alerts -- --include-ignored --nocapture --test-threads 1

.PHONY: chart-test
chart-test: ## Check the Helm chart, its alerts and its dashboard, without a cluster
	@scripts/fetch-chart-tools
	cargo test -p crashmonitor-testbed --test chart

.PHONY: chart-update
chart-update: ## Write anew what follows from the chart and from crds/: its copy of crds/, its README, the golden files
	@scripts/fetch-chart-tools
	UPDATE_GOLDEN=1 cargo test -p crashmonitor-testbed --test chart

.PHONY: run
run: run-deps ## Show it at work: Kafka, Redis, two workers and a load generator (SECONDS=60 ends by itself)
	@echo "building (the first time takes some minutes)"
	@cargo build --release -p crashmonitor-worker -p crashmonitor-bench -p crashmonitor-testbed \
	    --bin crashmonitor-worker --bin crashmonitor-loadgen --bin crashmonitor-run
	@$(CARGO_TARGET_DIR)/release/crashmonitor-run $(if $(SECONDS),--seconds $(SECONDS))

.PHONY: overload
overload: run-deps ## Give a worker more than is comfortable, and say what memory that takes (USERS=1000000,10000000)
	cargo build --release --workspace --bins
	CRASHMONITOR_OVERLOAD_USERS=$(or $(USERS),1000000$(comma)10000000) \
	    cargo test --release --workspace --test overload -- --nocapture --test-threads 1

.PHONY: bench
bench: run-deps ## Measure a catch-up and a steady load (RUNS=5 RECORDS=5000000 SECONDS=30 COMPRESSIONS=none,lz4,zstd)
	$(BENCH) $(if $(RUNS),--runs $(RUNS)) \
	    $(if $(RECORDS),--records $(RECORDS)) $(if $(SECONDS),--seconds $(SECONDS)) \
	    $(if $(COMPRESSIONS),--compressions $(COMPRESSIONS))

.PHONY: bench-latency
bench-latency: run-deps ## Measure from the watermark to the readable result (RATES=10000,100000,500000 SECONDS=120 OUT=docs/performance)
	$(BENCH) latency $(if $(RATES),--rates $(RATES)) \
	    $(if $(SECONDS),--seconds $(SECONDS)) $(if $(OUT),--out $(OUT))

.PHONY: bench-recovery
bench-recovery: run-deps ## Measure from kill -9 to the next result, and to very many counts (RUNS=5 PAIRS=1000,1000000 OUT=docs/performance)
	$(BENCH) recovery $(if $(RUNS),--runs $(RUNS)) \
	    $(if $(PAIRS),--pairs $(PAIRS)) $(if $(OUT),--out $(OUT))

.PHONY: bench-scale
bench-scale: run-deps ## Measure the catch-up over workers, partitions, users, crashes and sizes (RUNS=3 RECORDS=5000000 OUT=docs/performance)
	$(BENCH) scale $(if $(RUNS),--runs $(RUNS)) \
	    $(if $(RECORDS),--records $(RECORDS)) $(if $(OUT),--out $(OUT))

.PHONY: bench-network
bench-network: run-deps ## Measure the catch-up by workers behind links of limited bandwidth, as root (RUNS=3 RECORDS=5000000 OUT=docs/performance)
	@scripts/install-deps network
	$(BENCH) network $(if $(RUNS),--runs $(RUNS)) \
	    $(if $(RECORDS),--records $(RECORDS)) $(if $(OUT),--out $(OUT))

.PHONY: bench-profile
bench-profile: run-deps ## Show where a worker's time goes in a catch-up, as a flame graph (OUT=docs/performance)
	@scripts/install-deps profile
	@command -v $(TOOLS)/bin/inferno-flamegraph >/dev/null || \
	    cargo install --locked --root $(TOOLS) inferno@$(INFERNO_VERSION)
	$(BENCH) profile --record $(CRASHMONITOR_CACHE)/perf.data
	perf script --input $(CRASHMONITOR_CACHE)/perf.data | $(TOOLS)/bin/inferno-collapse-perf | \
	    $(TOOLS)/bin/inferno-flamegraph --title 'A worker that catches up' --deterministic \
	    > $(or $(OUT),docs/performance)/flamegraph.svg

.PHONY: bench-operator
bench-operator: run-deps ## Measure the operator with few and many monitors on nodes by kwok (MONITORS=1,100,1000 SECONDS=60 OUT=docs/performance)
	@scripts/fetch-control-plane kube-scheduler kwok
	cargo build --release -p crashmonitor-operator -p crashmonitor-testbed --bin crashmonitor-operator --bin crashmonitor-bench
	$(CARGO_TARGET_DIR)/release/crashmonitor-bench operator $(if $(MONITORS),--monitors $(MONITORS)) \
	    $(if $(SECONDS),--seconds $(SECONDS)) $(if $(OUT),--out $(OUT))

.PHONY: bench-peers
bench-peers: run-deps ## Measure the worker beside Kafka Streams, Flink and Spark, on one topic and in turn (RUNS=3 RECORDS=5000000 PEERS=…)
	@scripts/fetch-peers
	$(BENCH) --runs $(or $(RUNS),3) --peers $(PEERS) \
	    $(if $(RECORDS),--records $(RECORDS))

.PHONY: bench-micro
bench-micro: ## Measure the kernels of the scan stage (criterion; processor time, not the clock)
	cargo bench -p crashmonitor-core --bench kernels

.PHONY: demo
demo: deps cluster ## Show it at work on Kubernetes (SECONDS=90): scales to three workers and deletes one meanwhile
	@scripts/demo-images
	@cargo build --release -p crashmonitor-bench -p crashmonitor-testbed --bin crashmonitor-loadgen --bin crashmonitor-demo
	@scripts/demo $(if $(SECONDS),--seconds $(SECONDS))

.PHONY: images
images: ## Build the container images from this machine's binaries (PROFILE=dev: sooner, for tests)
	@scripts/install-deps
	cargo build --profile $(PROFILE) -p crashmonitor-worker -p crashmonitor-operator
	@scripts/images $(PROFILE)

.PHONY: cluster
cluster: images ## Bring up a Kubernetes cluster with kind, with our images in it (PROFILE=dev, as for images)
	@scripts/cluster up

.PHONY: demo-images
demo-images: run-deps images ## Build Kafka and Redis images for the demo, where none can be pulled
	@scripts/demo-images

.PHONY: cluster-down
cluster-down: ## Remove the cluster, and the Docker engine if `make cluster` started it
	@scripts/cluster down

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml

.PHONY: lint
lint: ## Check the format and the lints
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets -- -D warnings
	$(WITH_FAILPOINTS) cargo check --workspace --bin crashmonitor-worker

.PHONY: mutants
mutants: ## Plant one bug for each rule of the protocol and see that its tests find it (about 3 minutes)
	scripts/mutants

.PHONY: faults
faults: run-deps ## Cause every real fault under load and compare all results (RUNS=4 PARALLEL=2 ONLY=during-end, MORE=1 adds)
	$(WITH_FAILPOINTS) cargo build --workspace --bin crashmonitor-worker
	@install -D $(CARGO_TARGET_DIR)/debug/crashmonitor-worker $(CARGO_TARGET_DIR)/failpoints/crashmonitor-worker
	cargo build --workspace --bin crashmonitor-worker --bin crashmonitor-faults
	@CRASHMONITOR_WORKER=$(CARGO_TARGET_DIR)/failpoints/crashmonitor-worker $(CARGO_TARGET_DIR)/debug/crashmonitor-faults \
	    $(if $(RUNS),--runs $(RUNS)) $(if $(PARALLEL),--parallel $(PARALLEL)) $(if $(ONLY),--only $(ONLY)) $(if $(MORE),--more)

.PHONY: sim
sim: ## Simulate many seeds on all cores (SEEDS=100000, FROM=0), or replay one and tell its story (SEED=7)
	@cargo test -q --profile sim -p crashmonitor-core --test sim -- --nocapture

.PHONY: sim-mutants
sim-mutants: ## Plant one bug after another and see that the simulator finds it within 10,000 seeds (a table)
	scripts/mutants --simulator

.PHONY: fuzz
fuzz: ## Fuzz what comes from outside: records, frames, snapshots, configuration (SECONDS=60 for each)
	@command -v $(TOOLS)/bin/cargo-fuzz >/dev/null || \
	    cargo install --locked --root $(TOOLS) cargo-fuzz@$(CARGO_FUZZ_VERSION)
	@scripts/fuzz $(TOOLS)/bin/cargo-fuzz $(or $(SECONDS),60)

.PHONY: deny
deny: ## Check licences, sources, duplicates, and advisories where their database can be fetched
	@command -v $(TOOLS)/bin/cargo-deny >/dev/null || \
	    cargo install --locked --root $(TOOLS) cargo-deny@$(CARGO_DENY_VERSION)
	@scripts/check-dependencies $(TOOLS)/bin/cargo-deny

.PHONY: release
release: ## Make a release in dist/: programs, images, chart, SBOMs, checksums (IMAGES=no: without images)
	@command -v $(TOOLS)/bin/cargo-cyclonedx >/dev/null || \
	    cargo install --locked --root $(TOOLS) cargo-cyclonedx@$(CARGO_CYCLONEDX_VERSION)
	@scripts/release $(if $(IMAGES),--images $(IMAGES))

.PHONY: release-check
release-check: ## Make the release in dist/ again in another place, and compare byte by byte
	@scripts/release-check

.PHONY: docs
docs: ## Build the documentation as a site (into the cache; says where)
	@command -v $(TOOLS)/bin/mdbook >/dev/null || \
	    cargo install --locked --root $(TOOLS) mdbook@$(MDBOOK_VERSION) --no-default-features --features search
	@scripts/docs $(TOOLS)/bin/mdbook

.PHONY: clean
clean: ## Remove what was built (downloads stay)
	cargo clean
