# `make help` says what there is. Everything is cargo's, but for the demo and
# for who runs the tests where.

CARGO ?= cargo
# The tests count on signals that nobody ignores; nohup and a shell's `&` leave some ignored.
CLEAN := env --default-signal
FEATURES ?=
export PATH := $(PATH):/usr/sbin:/sbin # where Debian has mkfs and losetup
LEFT_OUT := $(CURDIR)/target/left-out
TARGET := $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := build
.PHONY: pictures help build release test test-filtered soak attack mutants powercut powercut-sequences fuzz asan bench vm-test packaging-test demo lint units install uninstall deb clean tools aiohttp cross test-armv7 test-armv7-units

# Where `make install` puts things, below DESTDIR.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
BINDIR ?= $(PREFIX)/bin
UNITDIR ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
TMPFILESDIR ?= $(PREFIX)/lib/tmpfiles.d
DOCDIR ?= $(PREFIX)/share/doc/pst
MANDIR ?= $(PREFIX)/share/man
BASHDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
FISHDIR ?= $(PREFIX)/share/fish/vendor_completions.d
# Started by systemd when the storage is mounted, without being enabled.
MOUNTED := var-lib-kvmd-pst.mount.wants/pst-mounted@var-lib-kvmd-pst.service
MANPAGES := $(wildcard contrib/man/*.[1-8])
# The pages that are found by another name, too, and under which the shells find completions.
MANLINKS := $(if $(wildcard contrib/man/pst-run.1),kvmd-pstrun.1:pst-run.1) kvmd-pst.8:pst-daemon.8
NAMES := pst kvmd-pst kvmd-pstrun

help: ## what there is
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' Makefile | expand -t 18

build: ## the binary, to work on
	$(CARGO) build --locked

release: ## the binary, to use: target/release/pst
	$(CARGO) build --locked --release

cross: ## release binaries for armv7 (PiKVM OS) and aarch64: target/cross/ARCHITECTURE/pst
	@packaging/cross/build

demo: release ## the main job, on a storage made for it; leaves nothing behind
	@contrib/demo.sh "$(TARGET)/release/pst"

lint: ## formatting, lints, manual pages
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --all-targets --no-default-features -- -D warnings
	@command -v mandoc >/dev/null || { echo "mandoc is not here; Debian's package is mandoc" >&2; exit 1; }
	mandoc -Tlint -Wwarning $(MANPAGES)

units: ## what systemd says to the units, and how tight the sandbox is
	@test -x "$(TARGET)/release/pst" || $(MAKE) release
	@packaging/check-units "$(TARGET)/release/pst"

# The program has to be there: `make release` first, as who need not be root.
install: ## to DESTDIR and PREFIX (/usr/local)
	@test -x "$(TARGET)/release/pst" || { echo "make release first" >&2; exit 1; }
	install -D -m 755 "$(TARGET)/release/pst" "$(DESTDIR)$(BINDIR)/pst"
	ln -sf pst "$(DESTDIR)$(BINDIR)/kvmd-pst"
	ln -sf pst "$(DESTDIR)$(BINDIR)/kvmd-pstrun"
	install -d "$(DESTDIR)$(UNITDIR)/$(dir $(MOUNTED))"
	for unit in pst.service pst.socket pst-mounted@.service pst-repair.service; do \
	    sed 's|/usr/bin/pst|$(BINDIR)/pst|; s|/usr/share/doc/pst|$(DOCDIR)|' packaging/systemd/$$unit \
	        | install -m 644 /dev/stdin "$(DESTDIR)$(UNITDIR)/$$unit" || exit 1; \
	done
	ln -sf ../pst-mounted@.service "$(DESTDIR)$(UNITDIR)/$(MOUNTED)"
	install -D -m 644 packaging/sysusers.d/pst.conf "$(DESTDIR)$(SYSUSERSDIR)/pst.conf"
	install -D -m 644 packaging/tmpfiles.d/pst.conf "$(DESTDIR)$(TMPFILESDIR)/pst.conf"
	install -D -m 644 -t "$(DESTDIR)$(DOCDIR)" README.md LICENSE contrib/pst.toml
	install -D -m 644 -t "$(DESTDIR)$(DOCDIR)/contrib/doc" contrib/doc/*.md contrib/doc/*.svg
	test -e "$(DESTDIR)$(SYSCONFDIR)/kvmd/pst.toml" || \
	    install -D -m 644 contrib/pst.toml "$(DESTDIR)$(SYSCONFDIR)/kvmd/pst.toml"
	for page in $(MANPAGES); do \
	    install -D -m 644 -t "$(DESTDIR)$(MANDIR)/man$${page##*.}" $$page || exit 1; \
	done
	for pair in $(MANLINKS); do \
	    ln -sf $${pair#*:} "$(DESTDIR)$(MANDIR)/man$${pair##*.}/$${pair%:*}" || exit 1; \
	done
	install -D -m 644 contrib/completions/pst.bash "$(DESTDIR)$(BASHDIR)/pst"
	install -D -m 644 -t "$(DESTDIR)$(ZSHDIR)" contrib/completions/_pst
	install -D -m 644 -t "$(DESTDIR)$(FISHDIR)" contrib/completions/pst.fish
	for name in $(filter-out pst,$(NAMES)); do \
	    ln -sf pst "$(DESTDIR)$(BASHDIR)/$$name" && ln -sf pst.fish "$(DESTDIR)$(FISHDIR)/$$name.fish" || exit 1; \
	done

# remove DIRECTORY,FILES: below DESTDIR, where they are.
remove = [ ! -d "$(DESTDIR)$1" ] || { cd "$(DESTDIR)$1" && rm -f $2; }
page_of = man$(patsubst .%,%,$(suffix $1))/$1
uninstall: ## what install did; the configuration and the storage stay
	$(call remove,$(BINDIR),$(NAMES))
	$(call remove,$(UNITDIR),pst.service pst.socket pst-mounted@.service pst-repair.service $(MOUNTED))
	-rmdir "$(DESTDIR)$(UNITDIR)/$(dir $(MOUNTED))" 2>/dev/null
	$(call remove,$(SYSUSERSDIR),pst.conf)
	$(call remove,$(TMPFILESDIR),pst.conf)
	$(call remove,$(MANDIR),$(foreach page,$(notdir $(MANPAGES)) $(foreach pair,$(MANLINKS),$(firstword $(subst :, ,$(pair)))),$(call page_of,$(page))))
	$(call remove,$(BASHDIR),$(NAMES))
	$(call remove,$(ZSHDIR),_pst)
	$(call remove,$(FISHDIR),$(addsuffix .fish,$(NAMES)))
	$(call remove,$(DOCDIR)/contrib/doc,$(notdir $(wildcard contrib/doc/*)))
	$(call remove,$(DOCDIR),README.md LICENSE pst.toml)
	-rmdir "$(DESTDIR)$(DOCDIR)/contrib/doc" "$(DESTDIR)$(DOCDIR)/contrib" 2>/dev/null
	-rmdir "$(DESTDIR)$(DOCDIR)" 2>/dev/null

deb: release ## target/deb/pst_VERSION_ARCH.deb
	@packaging/deb/build target/deb

# The daemon under the unit's system call filter. But for what systemd does for
# it there, and the tests leave to it: owning the socket, preparing the mount.
# Without the long tests of clients alone.
CLIENTS := _faults:: _races:: atomic:: check:: completions:: edit:: put:: tree::
test-filtered: ## the end-to-end tests under the unit's system call filter
	@mkdir -p "$(TARGET)" && tests/filtered --list packaging/systemd/pst.service @chown mount_setattr >"$(TARGET)/allowed"
	PST_TEST_LAUNCHER="$(CURDIR)/tests/filtered" PST_ALLOWED="$$(realpath "$(TARGET)/allowed")" $(MAKE) test TESTS="--test e2e $(TESTS) -- $(addprefix --skip ,$(CLIENTS))"

# As root; makes itself a small Debian tree once (mmdebstrap).
packaging-test: deb ## install, upgrade, remove and purge of the packages
	@tests/packaging.sh target/deb

vm-test: deb ## booted systems in qemu: systemd, a disk, power cuts, torn superblocks
	@tests/vm/run target/deb

# As root on loop devices; otherwise in a user namespace, where what needs more
# leaves itself out and is named at the end. TESTS= is handed to cargo test.
test: aiohttp ## every test, or in a user namespace what can be
	@$(CARGO) test --locked $(FEATURES) --no-run
	@mkdir -p target && rm -f "$(LEFT_OUT)"
	@if [ "$$(id -u)" = 0 ]; then own=; else own="unshare -rm --"; \
	    $$own true 2>/dev/null || { own=; echo "no user namespaces here: what mounts is left out"; }; fi; \
	code=0; PST_LEFT_OUT="$(LEFT_OUT)" $$own $(CLEAN) $(CARGO) test --locked $(FEATURES) --no-fail-fast $(TESTS) || code=$$?; \
	if [ -s "$(LEFT_OUT)" ]; then \
	    echo "$$(sort -u "$(LEFT_OUT)" | wc -l) tests left out:"; sort -u "$(LEFT_OUT)" | sed 's/^/  /'; \
	else echo "0 tests left out"; fi; \
	exit $$code

# As root installs the Debian packages that the tests need.
tools:
	@tests/tools --or-leave-out

# An independent client of kvmd's API, for its tests; without it they leave themselves out.
AIOHTTP := target/aiohttp
aiohttp: tools
	@[ -e $(AIOHTTP)/done ] || { \
	    rm -rf $(AIOHTTP) && python3 -m venv $(AIOHTTP).new \
	    && $(AIOHTTP).new/bin/python -m pip install -q --disable-pip-version-check aiohttp==3.* \
	    && mv $(AIOHTTP).new $(AIOHTTP) && touch $(AIOHTTP)/done; } \
	|| { rm -rf $(AIOHTTP) $(AIOHTTP).new; echo "no aiohttp, which python3-venv gets from PyPI: its tests are left out"; }

# As root. The drawing is done by rich, from PyPI.
pictures: release ## the pictures of contrib/doc, from the program's output
	@[ -e target/rich/done ] || { python3 -m venv target/rich && target/rich/bin/pip install -q --disable-pip-version-check rich==14.* && touch target/rich/done; }
	@contrib/doc/pictures "$(TARGET)/release/pst" target/rich/bin/python

mutants: ## changes of the code that a test must notice, for MUTANTS_SECONDS (3300) from MUTANTS_SEED, as root
	@tests/mutants $(AREAS)

test-armv7-units: ## the unit tests as an armv7 program, under qemu's user emulation
	@tests/armv7/units

# As root; makes itself a small Debian tree for armv7 once (mmdebstrap).
test-armv7: test-armv7-units ## and the end-to-end tests on a booted armv7 kernel, in qemu
	@tests/armv7/run

soak: ## chaos for SOAK_SECONDS (60) from SOAK_SEED, as root; P1 to P6 must hold
	@tests/tools
	@$(CLEAN) $(CARGO) test --locked --test soak -- --ignored --nocapture

attack: ## each system call fails or meets a signal, for ATTACK_SECONDS (1140), as root
	@tests/tools
	@$(CLEAN) $(CARGO) test --locked --test attack -- --ignored --nocapture
	@PST_EVERY_CALL=1 $(CLEAN) $(CARGO) test --locked --test e2e -- _faults:: --nocapture
	@$(CLEAN) $(CARGO) test --locked --test hostile -- --ignored --nocapture

powercut: ## power cuts for long (PST_POWER_ROUNDS, 20), from PST_POWER_SEED, as root
	@tests/tools
	@PST_REQUIRE_ALL=1 PST_POWER_ROUNDS=$${PST_POWER_ROUNDS:-20} PST_POWER_LENGTH=$${PST_POWER_LENGTH:-2} \
		$(CARGO) test --locked --test powercut -- --nocapture

powercut-sequences: ## power cuts in every sequence of three operations inside run --atomic, as root
	@tests/tools
	@PST_REQUIRE_ALL=1 PST_POWER_LENGTH=3 PST_POWER_SAMPLE=$${PST_POWER_SAMPLE:-100} \
		$(CARGO) test --locked --test powercut -- --nocapture p12_a_power_cut_leaves_the_old_tree_or_the_new_one

# In namespaces of its own, so that other mounts do not wake the daemon, and in real time (chrt), so
# that other work on the machine shows less. PST_BENCH_AGAINST=PATH compares session rates with
# another binary instead.
BENCHED = x86-64-small=$$(realpath "$(TARGET)")/small/release/pst armv7=target/cross/armv7/pst
bench: ## speed, size, memory and wear against their targets, as root
	@tests/tools
	@$(CARGO) build --locked --release --no-default-features --target-dir "$(TARGET)/small"
	@$(CARGO) bench --locked --bench bench --no-run
	@PST_BENCH_TABLE="$$(realpath "$(TARGET)")/bench.txt" PST_BENCH_BINARIES="$(BENCHED)" \
	    $(CLEAN) chrt -f 1 unshare --mount --pid --fork --kill-child --mount-proc -- \
	    $(CARGO) bench --locked --bench bench

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
