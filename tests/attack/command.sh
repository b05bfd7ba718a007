# The command of a session: writes, leaves a process in a session of its own, waits for the end of its input,
# writes again and takes that process along. Usage: command.sh FILE; ATTACK and ATTACK_STARTED are set
put() { printf '%s %s %020000d\n' "$ATTACK" "$1" 0 >> "$KVMD_PST_DATA/$2" || exit 9; }
trap 'kill -KILL $!; exit 143' TERM
: > "$KVMD_PST_DATA/$1" || exit 9
put first "$1"
setsid sleep 1000 &
: > "$ATTACK_STARTED"
cat > /dev/null
put second "$1"
kill -KILL $!
exit 0
