#!/bin/sh
# Builds bhatti, prepares what sandboxes are made of if it is not there, and measures this machine.
# Arguments go to `bhatti bench`; BHATTI_DATA_DIR says where kernel and images are kept.
set -eu

cd "$(dirname "$0")/.."
: "${BHATTI_DATA_DIR:=/var/lib/bhatti}"
export BHATTI_DATA_DIR

if [ "$(id -u)" != 0 ]; then
    echo "bench/run.sh: run it as root: it starts virtual machines" >&2
    exit 1
fi

cargo build --release >&2
bhatti="${CARGO_TARGET_DIR:-target}/release/bhatti"

# Both do nothing but say so if there is one already.
"$bhatti" kernel >&2
if [ ! -e "$BHATTI_DATA_DIR/images/names/busybox" ] && [ ! -e "$BHATTI_DATA_DIR/images/names/minimal" ]; then
    "$bhatti" image prepare busybox >&2
fi

exec "$bhatti" bench "$@"
