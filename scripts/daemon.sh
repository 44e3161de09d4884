# Sourced by scripts that need a daemon of their own, with its data in $data and its program in
# $bhatti. Whatever happens, nothing of it stays behind.
# shellcheck shell=bash disable=SC2154

# Seconds until a daemon must serve.
readonly START_LIMIT=30

daemon_pid=
daemon_log=
made_groups=()

# How VMs of this data directory are marked, in their environment and in cgroup names.
tag() {
    printf %s "$data" | sha256sum | cut -c 1-8
}

start_daemon() {
    local group line deadline
    for group in /sys/fs/cgroup /sys/fs/cgroup/*/; do
        [ -d "${group%/}/bhatti" ] || made_groups+=("${group%/}/bhatti")
    done
    daemon_log=$(mktemp)
    # In a session of its own, so that Ctrl-C leaves it to us to end it in good order.
    exec {daemon_output}< <(exec setsid "$bhatti" --data-dir "$data" serve --listen none 2>&1)
    daemon_pid=$!
    deadline=$((SECONDS + START_LIMIT))
    while IFS= read -r -t $((deadline - SECONDS)) -u "$daemon_output" line; do
        echo "$line" >>"$daemon_log"
        if [[ $line == bhatti*"serves on"* ]]; then
            # Somebody has to go on reading, or the daemon would block.
            cat <&"$daemon_output" >>"$daemon_log" &
            return
        fi
    done
    echo "the daemon did not start:" >&2
    cat "$daemon_log" >&2
    return 1
}

stop_daemon() {
    local file pid group
    if [ -n "$daemon_pid" ] && kill -TERM "$daemon_pid" 2>/dev/null; then
        wait "$daemon_pid" 2>/dev/null || true
    fi
    # A VM outlives its daemon, so one that was not destroyed has to be ended here.
    for file in $(grep -lz "^BHATTI_VM=$(tag)/" /proc/[0-9]*/environ 2>/dev/null); do
        pid=${file#/proc/}
        pid=${pid%/environ}
        kill -KILL "$pid" 2>/dev/null && tail --pid="$pid" -f /dev/null
    done
    for group in /sys/fs/cgroup/bhatti /sys/fs/cgroup/*/bhatti; do
        find "$group" -mindepth 1 -maxdepth 1 -type d -name "$(tag)-*" -exec rmdir {} + \
            2>/dev/null || true
    done
    for group in "${made_groups[@]}"; do
        rmdir "$group" 2>/dev/null || true
    done
    [ -z "$daemon_log" ] || rm -f "$daemon_log"
}
