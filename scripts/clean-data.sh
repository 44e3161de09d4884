#!/usr/bin/env bash
# Removes a data directory: only what is known to be ours, and only if no daemon uses it.
# usage: clean-data.sh DATA
set -euo pipefail

data=$1
[ -d "$data" ] || exit 0
if [ -e "$data/daemon.lock" ] && ! flock --nonblock "$data/daemon.lock" true; then
    echo "a daemon uses $data; end it first" >&2
    exit 1
fi
cd "$data"
rm -rf kernels images initramfs templates sandboxes run admin.key api.sock daemon.lock \
    kvm-verdict.json state.db state.db-shm state.db-wal
cd /
rmdir "$data" 2>/dev/null || echo "$data has other things in it and stays" >&2
