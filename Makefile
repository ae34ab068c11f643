# What people do here, in one word each. The work is in deploy/local and tests.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help demo up up-ha down build check test test-rust test-clients test-readme fuzz soak bench micro micro-baseline

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: ## the main job, seen working on real servers with real clients; removes what it made
	@deploy/local/demo.sh

up: ## a local cluster that stays: three MariaDB servers with Shunt in front
	@deploy/local/up.sh

up-ha: ## the same of which anything may die: three etcd, three control planes, two data planes; each to be killed
	@deploy/local/up-ha.sh

down: ## the end of it
	@deploy/local/down.sh

build: ## the programs, for development
	cargo build --locked --workspace

check: ## format, lints, documentation
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

test: ## everything, real servers and clients included; installs what is missing
	@deploy/local/install.sh build servers clients tools
	@$(MAKE) --no-print-directory test-rust test-readme test-clients

# A test that skips for want of a server or a tool fails. Most wait for servers more than they work.
test-rust: export RUST_TEST_THREADS ?= 4
test-rust:
	cargo build --locked --workspace
	PATH="$(CURDIR)/.shunt/bin:$$PATH" SHUNT_TEST_REQUIRE=1 cargo test --locked --workspace
	# Tests let every session use io_uring. As shipped, one that is alone on its worker does not; many are never alone.
	PATH="$(CURDIR)/.shunt/bin:$$PATH" SHUNT_TEST_REQUIRE=1 SHUNT_TEST_IO=auto \
	  cargo test --locked -p shunt-suite --test relay --test faults -- --skip memory:: --skip moves::

test-readme:
	tests/readme/run.sh

test-clients:
	tests/clients/through-shunt.sh

fuzz: ## every parser on random bytes, SECONDS each (default 20)
	FUZZ_SECONDS=$(or $(SECONDS),20) cargo test --locked --workspace -- --include-ignored --nocapture fuzz

soak: ## the long runs
	@deploy/local/install.sh build servers clients tools
	cargo build --locked --workspace
	PATH="$(CURDIR)/.shunt/bin:$$PATH" SHUNT_TEST_REQUIRE=1 cargo test --locked --workspace -- --ignored soak --nocapture

bench: ## what it costs, side by side with HAProxy; QUICK=1, CASE=name, LOGINS=n, IO=epoll, LIST=1
	@QUICK="$(QUICK)" CASE="$(CASE)" LOGINS="$(LOGINS)" IO="$(IO)" LIST="$(LIST)" tests/bench/run.sh

micro: ## instructions of the hot path, logins and routing, against the baseline; CASES="match pick"
	@deploy/local/install.sh build micro
	cargo run --locked --release -p shunt-micro -- $(CASES)

# Its baseline anew: commit it with the change that it shows.
micro-baseline:
	@deploy/local/install.sh build micro
	cargo run --locked --release -p shunt-micro -- --write
