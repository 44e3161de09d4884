# What people type. The work is done by cargo and by the scripts next to this file.

export PATH := $(PATH):$(HOME)/.cargo/bin

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BHATTI := $(abspath $(TARGET_DIR))/release/bhatti
# The same with places at which tests make something go wrong.
FAULTY := $(BHATTI)-faults
# Kept between runs: kernel, images, templates. Short, because control sockets lie below it.
DATA ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/bhatti-demo
TEST_DATA := $(abspath $(TARGET_DIR))/test-data

.PHONY: build demo test test-tiers fuzz lint bench clean-data install bootstrap bootstrap-tests binary faulty

build: bootstrap binary

bootstrap:
	@scripts/bootstrap.sh

bootstrap-tests:
	@scripts/bootstrap.sh tests

binary:
	cargo build --release --locked

faulty: bootstrap
	cargo build --config scripts/unoptimised.toml --release --locked -p bhatti --features faults --bin bhatti-faults

demo: build
	@scripts/prepare.sh "$(BHATTI)" "$(DATA)" minimal
	@scripts/demo.sh "$(BHATTI)" "$(DATA)"

test: bootstrap-tests build faulty
	@scripts/prepare.sh "$(BHATTI)" "$(TEST_DATA)" busybox minimal services
	@BHATTI_BIN="$(BHATTI)" BHATTI_FAULTS_BIN="$(FAULTY)" BHATTI_TEST_DATA="$(TEST_DATA)" \
	scripts/test.sh

# What is too large to be made and tested each time: minutes, and a gigabyte or two from the
# distribution's archive. An image that is there stays, also if its recipe has changed since:
# bhatti --data-dir target/test-data image prepare browser --update
test-tiers: bootstrap-tests build
	@scripts/prepare.sh "$(BHATTI)" "$(TEST_DATA)" busybox minimal services node docker browser computer
	@BHATTI_BIN="$(BHATTI)" BHATTI_TEST_DATA="$(TEST_DATA)" BHATTI_TEST_TIERS=yes \
	cargo nextest run --release --locked -p e2e -E 'binary(tiers)'

# Each target for so many seconds.
FUZZ ?= 60
fuzz: bootstrap
	@scripts/fuzz.sh all "$(FUZZ)"

lint: bootstrap
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets --locked -- -D warnings
	cargo clippy --release --locked -p base -p bhatti --features bhatti/faults -- -D warnings
	cargo run --quiet --release --locked -p xtask -- tidy
	@if command -v shellcheck >/dev/null; then shellcheck -x scripts/*.sh .ci/run; \
	else echo "NOT CHECKED: the scripts; shellcheck is missing: apt-get install shellcheck" >&2; fi

bench: build
	@scripts/prepare.sh "$(BHATTI)" "$(DATA)" minimal
	@"$(BHATTI)" --data-dir "$(DATA)" bench $(BENCH)

clean-data:
	@scripts/clean-data.sh "$(DATA)"
	@scripts/clean-data.sh "$(TEST_DATA)"

install: build
	install -D -m 755 "$(BHATTI)" "$(DESTDIR)/usr/local/bin/bhatti"
	install -D -m 644 packaging/bhatti.service "$(DESTDIR)/etc/systemd/system/bhatti.service"
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
	@echo "next: bhatti kernel && bhatti image prepare minimal && systemctl enable --now bhatti"
