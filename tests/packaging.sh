#!/bin/bash
# The packages in a Debian tree of their own: install, upgrade, remove, purge,
# and what is left each time; the PiKVM package by makepkg and pacman, beside a
# package like kvmd's.
# As root. Usage: packaging.sh DIRECTORY-OF-THE-DEB, from the top of the source.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
deb=$(echo "$1"/pst_*_"$(dpkg --print-architecture)".deb)
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
tests/vm/base "$release"
base=target/vm/$release
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
check "it has the name of kvmd's, too" test -L "$tree/etc/systemd/system/kvmd-pst.service"
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
check "removal keeps the configuration alone" clean ! -path "$tree/etc/kvmd/pst.toml" ! -path '*/etc/systemd/system/pst.*' ! -path '*/etc/systemd/system/kvmd-pst.service' ! -path '*.wants/pst.*' ! -path '*/deb-systemd-helper-*'
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

# PiKVM's package, by Arch's own tools: makepkg as an ordinary user, pacman in the
# tree, which has a package like kvmd's.
missing=
for pair in makepkg:makepkg pacman:pacman-package-manager fakeroot:fakeroot bsdtar:libarchive-tools; do
    command -v "${pair%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
if [ -n "$missing" ]; then
    echo "PiKVM's package needs: apt-get install$missing" >&2
    exit 1
fi
arch=$work/arch packages=$work/packages builder=64199
chmod 711 "$work"
mkdir -p "$arch"/{pst/src/target,kvmd,home} "$packages"
cp packaging/arch/{PKGBUILD,pst.install} "$arch/pst"
# The release is built already: cargo only looks whether it is up to date.
cp -a target/release "$arch/pst/src/target"
chown -R $builder:$builder "$arch" "$packages"
makepkg_in() { # makepkg_in DIRECTORY OPTION…, as an ordinary user who sees root's Rust
    local directory=$1 path cargo=${CARGO_HOME:-$HOME/.cargo} rustup=${RUSTUP_HOME:-$HOME/.rustup} mounts=
    shift
    path=$PATH
    if [ -d "$rustup" ]; then
        mounts="mount --bind '$cargo' '$arch/cargo' && mount --bind '$rustup' '$arch/rustup' &&"
        mkdir -p "$arch"/{cargo,rustup}
        path=$arch/cargo/bin:$path
    fi
    # What is mounted goes with the namespace.
    unshare --mount bash -c "$mounts exec \"\$@\"" bash \
        setpriv --reuid=$builder --regid=$builder --clear-groups \
        env -C "$directory" HOME="$arch/home" PATH="$path" CARGO_HOME="$arch/cargo" RUSTUP_HOME="$arch/rustup" \
        PST_SOURCE="$PWD" PKGDEST="$packages" CARGO_NET_OFFLINE=true makepkg --nocolor "$@"
}
cat >"$arch/kvmd/PKGBUILD" <<'END'
pkgname=kvmd
pkgver=4.208
pkgrel=1
arch=(any)
provides=(systemd=252 gcc-libs)
package() {
    install -d "$pkgdir"/usr/{bin,lib/{systemd/system,sysusers.d,tmpfiles.d}}
    printf '#!/bin/sh\necho of kvmd\n' | tee "$pkgdir/usr/bin/kvmd-pstrun" >"$pkgdir/usr/bin/kvmd-pst"
    chmod 755 "$pkgdir"/usr/bin/kvmd-pst*
    printf '[Service]\nExecStart=/usr/bin/kvmd-pst --run\n[Install]\nWantedBy=multi-user.target\n' >"$pkgdir/usr/lib/systemd/system/kvmd-pst.service"
    printf 'u kvmd-pst - "kvmd"\n' >"$pkgdir/usr/lib/sysusers.d/kvmd.conf"
    printf 'd /run/kvmd 0775 kvmd-pst kvmd-pst -\n' >"$pkgdir/usr/lib/tmpfiles.d/kvmd.conf"
}
END
# The package as it was first: it masked kvmd's service, and data/ was KVMD_PST_DATA.
make_old() {
    local old=$arch/old
    mkdir -p "$old/files"
    cat >"$old/PKGBUILD" <<'END'
pkgname=pst
pkgver=0.1.0
pkgrel=0.1
arch=(any)
depends=(kvmd "systemd>=249" gcc-libs)
backup=(etc/kvmd/pst.toml)
install=old.install
package() { cp -a "$startdir/files/." "$pkgdir"; }
END
    cat >"$old/old.install" <<'END'
post_install() {
    touch /etc/kvmd/.kvmd-pst-was-enabled
    systemctl --quiet disable kvmd-pst.service
    systemctl --quiet mask kvmd-pst.service
    systemctl --quiet enable pst.socket pst.service
}
END
    bsdtar -xf "$new" -C "$old/files"
    rm "$old"/files/.[A-Z]*
    cp contrib/pst.toml "$old/files/etc/kvmd"
    sed -i /^Alias=/d "$old/files/usr/lib/systemd/system/pst.service"
    chown -R $builder:$builder "$old"
    makepkg_in "$old" -d
}
check "PiKVM: makepkg makes the package" makepkg_in "$arch/pst" -d -e
new=$(echo "$packages"/pst-*.pkg.tar.*)
check "PiKVM: makepkg makes a package like kvmd's" makepkg_in "$arch/kvmd" -d
check "PiKVM: makepkg makes a package like the first" make_old
old=$(echo "$packages"/pst-*-0.1-*.pkg.tar.*)

mkdir -p "$tree/var/lib/pacman" "$work/cache" "$work/hooks"
printf '[options]\nArchitecture = auto\nSigLevel = Never\n' >"$work/pacman.conf"
pacman_in() {
    pacman --root "$tree" --dbpath "$tree/var/lib/pacman" --cachedir "$work/cache" --hookdir "$work/hooks" \
        --config "$work/pacman.conf" --logfile "$work/pacman.log" --noconfirm "$@" 2>&1 | tee "$work/pacman" &&
        ! grep -E 'error|warning|not found' "$work/pacman" | grep -v 'saved as'
}
lists() { (cd "$tree" && find . -xdev ! -type d ! -path './var/lib/pacman*' ! -path './var/lib/systemd*' ! -path './etc/.updated' -printf '%P %y %m %l\n' | sort); }
says() { grep -qx "$1" "$tree/etc/kvmd/pst.toml"; }
is_alias() { [[ $(readlink "$tree/etc/systemd/system/kvmd-pst.service") == */lib/systemd/system/pst.service ]]; }
mkdir -p "$tree/var/lib/kvmd/pst"

check "PiKVM: pacman installs what is like kvmd" pacman_in -U "$packages"/kvmd-*.pkg.tar.*
in_tree systemctl --quiet enable kvmd-pst.service
lists >"$work/before"
check "PiKVM: pacman installs pst" pacman_in -U "$new"
check "PiKVM: pacman finds every file as it was packed" pacman_in -Qkk pst
owned_by_kvmd='^usr/bin/kvmd-pst(run)?$|^usr/lib/systemd/system/kvmd-pst.service$|^usr/lib/(sysusers|tmpfiles).d/kvmd.conf$'
owns() { bsdtar -tf "$new" | grep -E "$owned_by_kvmd"; }
check "PiKVM: owns no file of kvmd's" not owns
check "PiKVM: completions are where Arch's shells look" completes "$tree" site-functions
pikvm_manual() { for page in $pages; do [ -e "$tree/usr/share/man/man${page##*.}/$page.gz" ] || return 1; done; }
check "PiKVM: the manual is there" pikvm_manual
check "PiKVM: its version is the program's" grep -qx "pkgver=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)" packaging/arch/PKGBUILD
check "PiKVM: kvmd-pstrun is pst's" in_tree sh -c '[ "$(readlink -f "$(command -v kvmd-pstrun)")" = /usr/bin/pst ] && kvmd-pstrun --version | grep -q pst'
check "PiKVM: KVMD_PST_DATA is what kvmd says" says 'data = ""'
check "PiKVM: kvmd's service is set aside" not enabled kvmd-pst.service
check "PiKVM: its name is another name of ours" is_alias
check "PiKVM: ours is in its place" enabled pst.service
check "PiKVM: pacman removes pst" pacman_in -R pst
check "PiKVM: kvmd's service has its place again" enabled kvmd-pst.service
check "PiKVM: kvmd-pstrun is kvmd's again" in_tree sh -c '[ "$(kvmd-pstrun)" = "of kvmd" ]'
as_before() { lists | diff "$work/before" -; }
check "PiKVM: everything is as before" as_before

# From the first package, which masked kvmd's service.
check "PiKVM: pacman installs the first package" pacman_in -U "$old"
check "PiKVM: pacman upgrades it" pacman_in -U "$new"
check "PiKVM: without files in data/, KVMD_PST_DATA becomes what kvmd says" says 'data = ""'
check "PiKVM: what it masked is an alias" is_alias
check "PiKVM: pacman removes the upgraded one" pacman_in -R pst
check "PiKVM: everything is as before the upgrade" as_before
pacman_in -U "$old" >/dev/null
in_tree systemctl --quiet disable pst.service
mkdir "$tree/var/lib/kvmd/pst/data"
touch "$tree/var/lib/kvmd/pst/data/file"
upgrades() { pacman_in -U "$new"; grep "data is in use" "$work/pacman"; }
check "PiKVM: an upgrade says that data/ is in use" upgrades
check "PiKVM: and keeps it as KVMD_PST_DATA" says 'data = "data"'
check "PiKVM: what the administrator disabled stays so" not enabled pst.service
check "PiKVM: and kvmd's is not masked" not enabled kvmd-pst.service
check "PiKVM: pacman removes that" pacman_in -R pst
rm -r "$tree/var/lib/kvmd/pst/data" "$tree"/etc/kvmd/pst.toml.*
in_tree systemctl --quiet disable kvmd-pst.service
lists >"$work/before"
check "PiKVM: pacman installs pst where kvmd's service is disabled" pacman_in -U "$new"
check "PiKVM: pacman removes it" pacman_in -R pst
check "PiKVM: kvmd's service is disabled, as before" as_before

echo "$passed passed, $failed failed"
[ $failed = 0 ]
