#!/bin/bash
# The packages in a Debian tree of their own: install, upgrade, remove, purge,
# and what is left each time; the PiKVM package beside files like kvmd's.
# As root. Usage: packaging.sh DIRECTORY-OF-THE-DEB, from the top of the source.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
deb=$(echo "$1"/pst_*_"$(dpkg --print-architecture)".deb)
base=target/vm/base
tests/vm/base $base
work=$(mktemp -d)
# Nothing is mounted in there, but who knows what a script does.
trap 'rm -rf --one-file-system "$work"' EXIT
tree=$work/tree
cp -a $base/tree "$tree"
cp "$deb" "$tree/pst.deb"

passed=0 failed=0
check() { # check NAME COMMAND…
    local name=$1
    shift
    if "$@" >"$work/said" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $name"
    else
        failed=$((failed + 1))
        echo "FAILED  $name"
        sed 's/^/        /' "$work/said"
    fi
}
not() { ! "$@"; }
in_tree() { DEBIAN_FRONTEND=noninteractive chroot "$tree" "$@"; }
enabled() { [ "$(in_tree systemctl is-enabled "$1")" = enabled ]; }
clean() { # is nothing left of the package's files in these directories?
    [ -z "$(find "$tree" -xdev \( -name 'pst*' -o -name 'kvmd-pst*' \) ! -name 'pstore*' ! -path "$tree/var/lib/dpkg/*" ! -path "$tree/pst.deb" "$@" -print | tee /dev/stderr)" ]
}

if command -v lintian >/dev/null; then
    lint() { ! lintian --allow-root "$deb" | grep '^[EW]:'; }
    check "lintian finds no error and gives no warning" lint
else
    echo "left out: lintian is not here (Debian's package lintian)"
fi

# The tree leaves manuals out, so they are looked for in the package itself.
mkdir "$work/files"
dpkg-deb -x "$deb" "$work/files"
pages=$(cd contrib/man && echo *.[1-8])
if command -v man >/dev/null; then
    manual() { # every page, and every other name of one
        local page
        for page in $pages $(find "$work/files/usr/share/man" -type l -name '*.gz' -printf '%f\n' | sed 's/[.]gz$//'); do
            man -M "$work/files/usr/share/man" -w "${page##*.}" "${page%.*}" || return 1
        done
        man -M "$work/files/usr/share/man" -w 8 kvmd-pst
    }
    check "the manual is found" manual
else
    echo "left out: man is not here (Debian's package man-db)"
fi
completes() { # completes TREE ZSHDIR: where each shell looks for it, by each name
    local name
    for name in pst kvmd-pst kvmd-pstrun; do
        grep -q "complete -F" "$1/usr/share/bash-completion/completions/$name" &&
            grep -q "complete -c" "$1/usr/share/fish/vendor_completions.d/$name.fish" &&
            grep -q "^#compdef .*\<$name\>" "$1/usr/share/zsh/$2/_pst" || return 1
    done
}
check "completions are where Debian's shells look" completes "$work/files" vendor-completions

check "installs" in_tree dpkg -i /pst.deb
check "dpkg finds every file as it was packed" in_tree dpkg -V pst
check "the user and the group are there" in_tree sh -c '[ "$(id -gn kvmd-pst)" = kvmd-pst ]'
check "the service is enabled" enabled pst.service
check "the socket is enabled" enabled pst.socket
check "the service is wanted by the mount" test -L "$tree/etc/systemd/system/var-lib-kvmd-pst.mount.wants/pst.service"
check "the mount brings the preparation" test -e "$tree/lib/systemd/system/var-lib-kvmd-pst.mount.wants/pst-mounted@var-lib-kvmd-pst.service"
check "the program runs" in_tree pst --version
check "kvmd-pstrun is it" in_tree sh -c 'kvmd-pstrun --help | grep -q "pst run\|kvmd-pstrun"'
check "kvmd-pst is it" in_tree sh -c 'kvmd-pst --help | grep -q "pst daemon\|kvmd-pst"'
check "the packed configuration is valid" in_tree sh -c 'pst prepare 2>&1 | grep -v "toml:[0-9]"'
check "nothing is setuid, setgid or has capabilities" in_tree sh -c \
    '! dpkg -L pst | xargs -d "\n" stat -c "%A %n" | grep "^...[sS]\|^......[sS]"'

echo "# kept" >>"$tree/etc/kvmd/pst.toml"
in_tree systemctl --quiet disable pst.service
upgrade=$work/new
dpkg-deb -R "$deb" "$upgrade"
sed -i 's/^Version: .*/&+1/' "$upgrade/DEBIAN/control"
dpkg-deb --root-owner-group -Zgzip --build "$upgrade" "$tree/new.deb" >/dev/null
check "upgrades" in_tree dpkg -i /new.deb
rm "$tree/new.deb"
check "the upgrade keeps the configuration" grep -qx '# kept' "$tree/etc/kvmd/pst.toml"
check "the upgrade leaves disabled what was disabled" not enabled pst.service
check "the upgrade leaves enabled what was enabled" enabled pst.socket
in_tree systemctl --quiet enable pst.service

check "is removed" in_tree dpkg -r pst
check "removal keeps the configuration alone" clean ! -path "$tree/etc/kvmd/pst.toml" ! -path '*/etc/systemd/system/pst.*' ! -path '*.wants/pst.*' ! -path '*/deb-systemd-helper-*'
check "removal starts nothing at the next boot" in_tree sh -c '! systemctl is-enabled pst.service | grep -x enabled'
check "installs again" in_tree dpkg -i /pst.deb
check "it is enabled again" enabled pst.service
check "the configuration is still there" grep -qx '# kept' "$tree/etc/kvmd/pst.toml"
check "is purged" in_tree dpkg -P pst
check "purging leaves nothing but the storage's owner" clean
check "purging removes its directory" not test -e "$tree/etc/kvmd"
check "the storage's owner stays: files are his" in_tree id kvmd-pst

# From source, and back.
source=$work/source
check "make install" make -s install DESTDIR="$source"
check "make uninstall" make -s uninstall DESTDIR="$source"
remains() { [ "$(cd "$source" && find . ! -type d | tee /dev/stderr)" = ./etc/kvmd/pst.toml ]; }
check "make uninstall leaves the configuration alone" remains

# PiKVM's package, as far as that can be without pacman: what it would install,
# into a tree that has what kvmd installs.
arch=$work/arch
mkdir -p "$arch"
(
    export startdir=$PWD/packaging/arch srcdir=$work/src pkgdir=$arch CARGO_TARGET_DIR=
    mkdir -p "$srcdir/target/release"
    cp target/release/pst "$srcdir/target/release/pst"
    # shellcheck disable=SC1091
    . packaging/arch/PKGBUILD
    package
) >/dev/null
owned_by_kvmd='^usr/bin/kvmd-pst(run)?$|^usr/lib/systemd/system/kvmd-pst.service$|^usr/lib/(sysusers|tmpfiles).d/kvmd.conf$'
owns() { (cd "$arch" && find . ! -type d -printf '%P\n') | grep -E "$owned_by_kvmd"; }
check "PiKVM: owns no file of kvmd's" not owns
check "PiKVM: completions are where Arch's shells look" completes "$arch" site-functions
pikvm_manual() { for page in $pages; do [ -e "$arch/usr/share/man/man${page##*.}/$page" ] || return 1; done; }
check "PiKVM: the manual is there" pikvm_manual
check "PiKVM: its version is the program's" grep -qx "pkgver=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)" packaging/arch/PKGBUILD
mkdir -p "$tree/etc/kvmd"
printf '#!/bin/sh\necho of kvmd\n' | tee "$tree/usr/bin/kvmd-pstrun" >"$tree/usr/bin/kvmd-pst"
chmod 755 "$tree"/usr/bin/kvmd-pst*
printf '[Service]\nExecStart=/usr/bin/kvmd-pst --run\n[Install]\nWantedBy=multi-user.target\n' >"$tree/usr/lib/systemd/system/kvmd-pst.service"
in_tree systemctl --quiet enable kvmd-pst.service
cp -a "$arch/." "$tree"
cp packaging/arch/pst.install "$tree"
hook() { in_tree bash -ec '. /pst.install; '"$1"; }
check "PiKVM: post_install" hook post_install
check "PiKVM: kvmd-pstrun is pst's" in_tree sh -c '[ "$(readlink -f "$(command -v kvmd-pstrun)")" = /usr/bin/pst ] && kvmd-pstrun --version | grep -q pst'
check "PiKVM: kvmd's service is set aside" not enabled kvmd-pst.service
check "PiKVM: nothing else can start it" test "$(readlink "$tree/etc/systemd/system/kvmd-pst.service")" = /dev/null
check "PiKVM: ours is in its place" enabled pst.service
check "PiKVM: the two exclude each other" grep -qx Conflicts=kvmd-pst.service "$tree/usr/lib/systemd/system/pst.service"
check "PiKVM: post_upgrade" hook post_upgrade
check "PiKVM: pre_remove" hook pre_remove
(cd "$arch" && find . ! -type d -printf '%P\0') | (cd "$tree" && xargs -0 rm -f)
check "PiKVM: post_remove" hook post_remove
check "PiKVM: kvmd's service has its place again" enabled kvmd-pst.service
check "PiKVM: kvmd-pstrun is kvmd's again" in_tree sh -c '[ "$(kvmd-pstrun)" = "of kvmd" ]'
rm "$tree"/usr/bin/kvmd-pst* "$tree/usr/lib/systemd/system/kvmd-pst.service" "$tree/pst.install" "$tree"/etc/systemd/system/multi-user.target.wants/kvmd-pst.service
check "PiKVM: nothing else is left" clean ! -type d

echo "$passed passed, $failed failed"
[ $failed = 0 ]
