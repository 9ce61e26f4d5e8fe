# The two commands of this repository are `make serve` and `make test`.

.PHONY: help release dist test-dist serve demo demo-parts test test-rust test-client test-consumers test-protocol test-e2e bench bench-cluster bench-resume bench-leaving conformance soak torture truth test-truth simulate suites lint layers fuzz

# Where cargo builds.
BUILT = $(or $(CARGO_TARGET_DIR),target)

help:
	@echo "make serve   build Heartline and run it for development on 127.0.0.1:8080"
	@echo "make demo    a chat in React, in front of a node that it starts itself"
	@echo "make test    install what the tests need and run all of them"
	@echo "make test-consumers  the browser client's package in Vite, webpack, Next.js, Deno and Bun; three minutes"
	@echo "make bench   measure Heartline beside its peers, three quarters of an hour; QUICK=1 for a smoke run"
	@echo "make soak    churn, broadcast and slow consumers for SECONDS (120); then nothing may be left"
	@echo "make torture connections cut at any byte, the gateway and its database killed; SECONDS (300)"
	@echo "make truth   what clients are told of presence against the truth, while all goes wrong; SECONDS (120), SEED"
	@echo "make bench-cluster  what a cluster costs Redis and gives, twelve minutes"
	@echo "make simulate  130 000 runs of the cluster's protocol and 2 000 of clients' views, everything going wrong"
	@echo "make conformance  Autobahn's fuzzing client against the WebSocket layer (needs a Python 2.7)"
	@echo "make suites  the tests of Socket.IO's protocols and clients; CHECKOUT=a clone of socketio/socket.io"
	@echo "make dist    a static binary, packed: archive, Debian package, symbols; in dist/"
	@echo "make test-dist  tests of the packages, with the release binary in them"
	@echo "make lint    formatting and lints, as CI checks them"
	@echo "make layers  that no arrow between modules points up (scripts/layers.json), and the map is true"
	@echo "make fuzz    run each decoder's fuzz target for a minute (needs a nightly toolchain and cargo-fuzz)"

serve:
	cargo run --profile serve -p heartline-server --no-default-features -- serve --dev

# Two at a time (`make -j2 test`) they take two thirds of the time.
test: test-rust test-client test-protocol test-truth test-e2e

test-rust:
	scripts/install-test-tools
	cargo test --workspace

# What follows runs the release binaries as they are shipped: stripped, and the symbols beside.
release:
	cargo build --release -p heartline-server
	scripts/split-symbols $(BUILT)/release/heartline

test-client:
	scripts/node-tests clients/js

# Some hundred megabytes of tools and runtimes: no part of `make test`, which has two consumers too.
test-consumers: release
	npm ci --prefix clients/js --no-audit --no-fund --loglevel=error
	scripts/node-tests tests/consumers

# By the examples, as `cargo test` has built them.
test-protocol:
	cargo build --workspace --examples
	EXAMPLES=$(abspath $(BUILT))/debug/examples scripts/node-tests tests/protocol

# The checker of `make truth`, on histories made by hand.
test-truth:
	node --test tests/truth/check.test.js

# The demo and what it runs on.
demo-parts: release
	npm ci --prefix clients/js --no-audit --no-fund --loglevel=error
	npm run build --prefix clients/js --silent
	npm ci --prefix examples/demo --no-audit --no-fund --loglevel=error

demo: demo-parts
	node examples/demo/run.js

# The parts of the demo behind the client's tests: both install its packages.
test-e2e: release test-client
	$(MAKE) demo-parts
	scripts/install-test-tools
	scripts/node-tests tests/e2e

dist:
	scripts/static
	scripts/dist
	scripts/test-dist dist

# Packs what `make release` built, so that it costs no second build.
test-dist: release
	scripts/dist $(BUILT)/release/heartline $(BUILT)/dist
	scripts/test-dist $(BUILT)/dist

bench:
	scripts/bench

soak: release
	node tests/soak/run.js $(or $(SECONDS),120)

# Both folders: the harness uses what the end-to-end tests use.
torture: release
	scripts/install-test-tools redis-server initdb=postgresql
	npm ci --prefix tests/e2e --no-audit --no-fund --loglevel=error
	npm ci --prefix tests/torture --no-audit --no-fund --loglevel=error
	node tests/torture/run.js $(or $(SECONDS),300) $(PHASES)

truth: release
	scripts/install-test-tools redis-server
	npm ci --prefix tests/e2e --no-audit --no-fund --loglevel=error
	npm ci --prefix clients/js --no-audit --no-fund --loglevel=error
	npm run build --prefix clients/js --silent
	node tests/truth/run.js $(or $(SECONDS),120) $(SEED)

# What coming back costs, beside Node; the figures are in bench/RESULTS.md.
bench-resume: release
	npm ci --prefix tests/e2e --no-audit --no-fund --loglevel=error
	npm ci --prefix tests/torture --no-audit --no-fund --loglevel=error
	taskset -c 1 node bench/resume.js

# What members hear while a node is killed or drained, beside Node; in bench/RESULTS.md too.
bench-leaving: release
	scripts/install-test-tools redis-server
	npm ci --prefix tests/e2e --no-audit --no-fund --loglevel=error
	npm ci --prefix tests/torture --no-audit --no-fund --loglevel=error
	node bench/leaving.js

bench-cluster: release
	scripts/install-test-tools
	npm ci --prefix tests/e2e --no-audit --no-fund --loglevel=error
	npm ci --prefix bench/peers/adapter --no-audit --no-fund --loglevel=error
	node bench/cluster.js

conformance:
	scripts/conformance

# The tests of Engine.IO 4 and Socket.IO 5, and those that the two clients come with for Node.
suites:
	tests/suites/run "$(CHECKOUT)"

# 130 000 runs of the cluster's protocol under a virtual clock, then 2 000 of what clients believe.
simulate:
	HEARTLINE_SIMULATIONS=40000 HEARTLINE_CROWD=200,5000 cargo test --release -p heartline-cluster simulation -- --nocapture
	HEARTLINE_VIEWS=2000 cargo test --release -p heartline --lib hub::tests::views -- --nocapture

lint: layers
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo check -p heartline # by itself: without the features that others ask for

# The rows of scripts/layers.json against the code, then the tests of that check itself.
layers:
	node scripts/layers.mjs
	node --test tests/layers/layers.test.mjs

fuzz:
	scripts/fuzz 60
