# The command of a session. Usage: sh -c … command SLOT LINES WIDTH PAUSE KIND
slot=$1 lines=$2 width=$3 pause=$4 kind=$5 others=
at=$KVMD_PST_DATA/$slot
fail() {
    echo "$1" > "$SOAK_REPORTS/$PST_SOAK.failed"
    [ -z "$others" ] || kill -KILL $others
    exit 9
}
printf '' 2>/dev/null > "$at.new" || fail 'P3: its first write'
echo $$ > "$SOAK_REPORTS/$PST_SOAK.pid"
case $kind in *stubborn*) trap '' TERM ;; esac
case $kind in *holding*) exec 3>> "$at.new" ;; esac
case $kind in *tree*)
    setsid sleep 1000 &
    others="$! $( (sleep 1000 >/dev/null & echo $!) )" # an orphan
esac
line=0
while [ $line -lt "$lines" ]; do
    line=$((line + 1))
    printf "%s %s %0${width}d\n" "$PST_SOAK" $line $line 2>/dev/null >> "$at.new" || fail "P2: write $line"
    [ "$pause" = 0 ] || sleep "$pause"
done
case $kind in *endless*) while :; do sleep 1000; done ;; esac
mv -f "$at.new" "$at" 2>/dev/null || fail 'P2: its rename'
[ -z "$others" ] || kill -KILL $others
exit 0
