# The one place where a rig is taken down. Its standard input is a pipe from
# the test process: the input's end means that the test is over, or that the
# test process died, however. Usage: janitor.sh ID DIR
id=$1 dir=$2
trap '' INT TERM HUP QUIT
read -r _

# A process belongs to the rig when its environment says so.
tries=0
while pids=$(grep -lzsxF "PST_RIG=$id" /proc/[0-9]*/environ | cut -d/ -f3)
      [ -n "$pids" ] && [ $tries -lt 250 ]; do
    kill -KILL $pids 2>/dev/null
    tries=$((tries + 1))
    sleep 0.02
done

mounts() { # below the directory, the last one first
    awk -v d="$dir/" 'index($5, d) == 1 { print $5 }' /proc/self/mountinfo | tac
}
unmount() { # $@: options. mountinfo writes a blank as \040
    mounts | while IFS= read -r m; do
        umount "$@" "$(printf '%b' "$(printf '%s' "$m" | sed 's/\\/\\0/g')")" 2>/dev/null
    done
}
# Under the lock that `attach` in ground.rs takes: a device that frees itself between being listed
# and being detached must not be another rig's by then.
detach() {
    [ -r /dev/loop-control ] || return 0
    (
        flock 9
        losetup -nO NAME,MAJ:MIN,BACK-FILE 2>/dev/null | while read -r name number file; do
            case $file in "$dir"/*)
                # The next rig on this device may have another storage user.
                rm -rf "/run/pst/pst-$(echo "$number" | tr : -).lock"
                losetup -d "$name" 2>/dev/null
                ;;
            esac
        done
    ) 9</dev/loop-control
}
unmount
detach
unmount # what held an image file
detach
unmount -l
detach
rm -rf --one-file-system "$dir"
