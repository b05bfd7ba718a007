# `make help` says what there is. Everything is cargo's, but for the demo and
# for who runs the tests where.

CARGO ?= cargo
export PATH := $(PATH):/usr/sbin:/sbin # where Debian has mkfs and losetup
LEFT_OUT := $(CURDIR)/target/left-out

.DEFAULT_GOAL := build
.PHONY: help build release test soak powercut fuzz asan demo lint clean aiohttp

help: ## what there is
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 18

build: ## the binary, to work on
	$(CARGO) build --locked

release: ## the binary, to use: target/release/pst
	$(CARGO) build --locked --release

demo: release ## the main job, on a storage made for it; leaves nothing behind
	@contrib/demo.sh target/release/pst

lint: ## formatting and lints
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --all-targets --no-default-features -- -D warnings

# As root on loop devices; otherwise in a user namespace, where what needs more
# leaves itself out and is named at the end. TESTS= is handed to cargo test.
test: aiohttp ## every test, or in a user namespace what can be
	@tests/tools
	@$(CARGO) test --locked --no-run
	@mkdir -p target && rm -f $(LEFT_OUT)
	@if [ "$$(id -u)" = 0 ]; then own=; else own="unshare -rm --"; \
	    $$own true 2>/dev/null || { own=; echo "no user namespaces here: what mounts is left out"; }; fi; \
	code=0; PST_LEFT_OUT=$(LEFT_OUT) $$own $(CARGO) test --locked --no-fail-fast $(TESTS) || code=$$?; \
	if [ -s $(LEFT_OUT) ]; then \
	    echo "$$(sort -u $(LEFT_OUT) | wc -l) tests left out:"; sort -u $(LEFT_OUT) | sed 's/^/  /'; \
	else echo "0 tests left out"; fi; \
	exit $$code

# An independent client of kvmd's API, for its tests; without it they leave themselves out.
AIOHTTP := target/aiohttp
aiohttp:
	@[ -e $(AIOHTTP)/done ] || { \
	    rm -rf $(AIOHTTP) && python3 -m venv $(AIOHTTP).new \
	    && $(AIOHTTP).new/bin/python -m pip install -q --disable-pip-version-check aiohttp==3.* \
	    && mv $(AIOHTTP).new $(AIOHTTP) && touch $(AIOHTTP)/done; } \
	|| { rm -rf $(AIOHTTP) $(AIOHTTP).new; echo "aiohttp is not to be had from PyPI: its tests are left out"; }

soak: ## chaos for SOAK_SECONDS (60) from SOAK_SEED, as root; P1 to P6 must hold
	@tests/tools
	@$(CARGO) test --locked --test soak -- --ignored --nocapture

powercut: ## power cuts for long (PST_POWER_ROUNDS, 20), from PST_POWER_SEED, as root
	@tests/tools
	@PST_REQUIRE_ALL=1 PST_POWER_ROUNDS=$${PST_POWER_ROUNDS:-20} $(CARGO) test --locked --test powercut -- --nocapture

fuzz: ## ten million executions of each decoder and reader; RUNS= for another number
	@tests/fuzz/all

# The stable compiler has its runtime, but no option for it. Of the tests those
# of what touches memory itself, and of what takes bytes from others.
asan: ## the tests of sys and the codec under AddressSanitizer
	@host=$$(rustc -vV | sed -n 's/^host: //p'); \
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address \
	    $(CARGO) test --locked --lib --target $$host --target-dir target/asan -- sys:: wire:: escape:: fstab:: mountinfo::

clean: ## what was built
	$(CARGO) clean
