#!/usr/bin/env bash
# A tour: what one sandbox does in its life, and how long each step takes.
# usage: demo.sh BHATTI DATA
set -euo pipefail

bhatti=$1
data=$(realpath "$2")
export BHATTI_DATA_DIR=$data BHATTI_CONFIG=/dev/null BHATTI_URL="unix://$data/api.sock"
unset BHATTI_TOKEN
# The host's own network stays as it is.
export BHATTI_NETWORK=isolated

# shellcheck source=scripts/daemon.sh
. "$(dirname "$0")/daemon.sh"

if [ "$(id -u)" -ne 0 ]; then
    echo "the demo has to run as root: the daemon confines every VM under a user of its own" >&2
    exit 1
fi

names=()
times=()

# step NAME COMMAND: echoes the command, runs it and notes how long it took.
step() {
    local start end
    printf '\n$ %s\n' "$2"
    start=${EPOCHREALTIME/[.,]/}
    bash -c "set -o pipefail; bhatti() { \"$bhatti\" \"\$@\"; }; $2"
    end=${EPOCHREALTIME/[.,]/}
    names+=("$1")
    times+=($((end - start)))
}

table() {
    local index
    printf '\n%-28s %10s\n' step time
    for index in "${!names[@]}"; do
        printf '%-28s %7d ms\n' "${names[index]}" $((times[index] / 1000))
    done
}

clear_away() {
    for name in dev try-1 try-2 later; do
        "$bhatti" destroy -y "$name" >/dev/null 2>&1 || true
    done
    "$bhatti" snapshot delete -y base >/dev/null 2>&1 || true
}

finish() {
    local code=$?
    trap - EXIT
    # Whoever pressed Ctrl-C knows why it ended.
    if [ "$code" -ne 0 ] && [ "$code" -ne 130 ] && [ -s "$daemon_log" ]; then
        echo "the daemon's log:" >&2
        tail -n 30 "$daemon_log" >&2
    fi
    clear_away
    stop_daemon
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

start=${EPOCHREALTIME/[.,]/}
start_daemon
names+=("daemon start")
times+=($((${EPOCHREALTIME/[.,]/} - start)))
cat "$daemon_log"
# An earlier demo may have been killed halfway.
clear_away

step "create" "bhatti create --name dev --cpus 2 --memory 1024"
step "exec" "bhatti exec dev -- uname -a"
step "file write" "echo 'still here' | bhatti file write dev /tmp/x"
step "file read" "bhatti file read dev /tmp/x"
step "stop (all of it on disk)" "bhatti stop dev"
step "exec (wakes it)" "bhatti exec dev -- cat /tmp/x"
step "snapshot (it runs on)" "bhatti snapshot create dev --name base"
step "two forks (it runs on)" "bhatti fork dev --name try --count 2"
step "exec in a fork" "bhatti exec try-2 -- sh -c 'hostname; cat /tmp/x'"
step "forks reach each other" "bhatti exec try-1 -- ping -c 1 try-2"
step "resume the snapshot" "bhatti snapshot resume base --name later"
step "list" "bhatti list"
step "inspect" "bhatti inspect dev"
step "destroy" "bhatti destroy -y dev"
step "snapshots" "bhatti snapshot list"
step "a fork needs nobody" "bhatti exec try-1 -- cat /tmp/x"
step "destroy" "bhatti destroy -y try-1 && bhatti destroy -y try-2 && bhatti destroy -y later"
step "delete the snapshot" "bhatti snapshot delete -y base"
table
