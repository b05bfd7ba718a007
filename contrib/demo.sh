#!/bin/bash
# The main job, shown: a storage is mounted read-only, becomes writable while a
# script runs, and is read-only again when it is done.
# Usage: demo.sh PST. As root on an ext4 image, as PiKVM OS has it; otherwise on
# a tmpfs in a user namespace. Leaves nothing behind.
set -euo pipefail
pst=$(realpath "$1")
PATH=$PATH:/usr/sbin:/sbin

if [ "$(id -u)" != 0 ]; then
    if ! unshare -rm true 2>/dev/null; then
        echo "demo: needs root, or user namespaces, which this kernel does not give you" >&2
        exit 1
    fi
    exec unshare -rm "$0" "$pst"
fi
# Root of a user namespace alone has no loop devices.
grep -q 4294967295 /proc/self/uid_map && root=true || root=false

here=$(mktemp -d -t pst-demo.XXXXXX)
mount=$here/pst
loop= daemon= session= locks=
leave() {
    trap '' INT TERM HUP
    if [ -n "$session" ]; then kill "$session" 2>/dev/null || true; wait "$session" || true; fi
    if [ -n "$daemon" ]; then kill "$daemon" 2>/dev/null || true; wait "$daemon" || true; fi
    if mountpoint -q "$mount"; then umount "$mount" || umount -l "$mount"; fi
    if [ -n "$loop" ]; then
        rm -f "/run/pst/pst-$(tr : - <"/sys/block/${loop#/dev/}/dev").lock"
        losetup -d "$loop"
    fi
    if [ -n "$locks" ]; then rmdir --ignore-fail-on-non-empty "$locks"; fi
    rm -rf --one-file-system "$here"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

say() { printf '\n# %s\n' "$*"; }
state() { # mountinfo has the mount's own flag first, the superblock's last
    awk -v m="$mount" '$5 == m { split($NF, o, ","); print "the storage is: " o[1] }' /proc/self/mountinfo
}

mkdir "$mount" "$here/bin"
ln -s "$pst" "$here/bin/pst"
ln -s "$pst" "$here/bin/kvmd-pstrun"
export PATH=$here/bin:$PATH PST_SOCKET=$here/pst.sock

if ! $root; then
    say "A tmpfs in a user namespace, mounted read-only (as root, it would be an ext4)"
    what="tmpfs $mount tmpfs nodev,nosuid,noexec,ro"
    mount -t tmpfs -o ro,nodev,nosuid,noexec tmpfs "$mount"
    volatile=true
else
    say "A 256 MiB ext4 labelled PIPST, mounted as PiKVM OS does"
    truncate -s 256M "$here/image"
    loop=$(losetup -f --show "$here/image") # not `mount -o loop,ro`: that makes the device itself read-only
    mkfs.ext4 -q -L PIPST "$loop"
    what="LABEL=PIPST $mount ext4 nodev,nosuid,noexec,ro,errors=remount-ro"
    mount -o ro,nodev,nosuid,noexec,errors=remount-ro "$loop" "$mount"
    volatile=false
    [ -e /run/pst ] || locks=/run/pst
fi
echo "$what,X-kvmd.pst-user=root,X-kvmd.pst-group=root 0 2" >"$here/fstab"
cat >"$here/pst.toml" <<END
socket = "$PST_SOCKET"
group = "root"
[storage]
fstab = "$here/fstab"
volatile = $volatile
END
cat >"$here/script.sh" <<'END'
#!/bin/bash
echo `date` + $@ > $KVMD_PST_DATA/foo
cat $KVMD_PST_DATA/foo
END
chmod +x "$here/script.sh"

pst prepare -c "$here/pst.toml"
pst daemon -c "$here/pst.toml" 2>"$here/log" &
daemon=$!
for _ in {1..500}; do
    [ ! -S "$PST_SOCKET" ] || break
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.01
done
if ! pst status >/dev/null; then
    cat "$here/log" >&2
    exit 1
fi
state

say "kvmd-pstrun -- script.sh hello"
kvmd-pstrun -- "$here/script.sh" hello

say "The same script again, while another session is open: pst status"
coproc other { exec kvmd-pstrun -- sh -c 'echo open; exec cat' 2>/dev/null; }
session=$other_PID
read -r _ <&"${other[0]}"
kvmd-pstrun -- "$here/script.sh" hello again
state
pst status
exec {other[1]}>&-
wait "$session"
session=

say "A file stored all or nothing: pst put -m 600 api.key"
echo secret | pst put -m 600 api.key
ls -l "$mount/data/api.key"

say "And when nobody works with it any more"
state
