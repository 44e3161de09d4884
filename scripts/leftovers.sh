#!/usr/bin/env bash
# Prints what daemons and VMs leave behind on the host if they are not ended in good order, one a
# line: processes, control groups, mounts, network interfaces and rules.
set -euo pipefail
shopt -s nullglob

for file in /proc/[0-9]*/environ; do
    # Processes come and go meanwhile.
    if mark=$(tr '\0' '\n' 2>/dev/null <"$file" | grep '^BHATTI_VM='); then
        pid=${file#/proc/}
        echo "process ${pid%/environ}, a VM monitor ($mark)"
    fi
done 2>/dev/null
for file in /proc/[0-9]*/cmdline; do
    if tr '\0' ' ' 2>/dev/null <"$file" | grep -Eq '^[^ ]*bhatti(-faults)? (.* )?serve( |$)'; then
        pid=${file#/proc/}
        echo "process ${pid%/cmdline}, a daemon"
    fi
done 2>/dev/null
for group in /sys/fs/cgroup/bhatti/*/ /sys/fs/cgroup/*/bhatti/*/; do
    echo "control group ${group%/}"
done
for link in /sys/class/net/bu* /sys/class/net/bb* /sys/class/net/bt*; do
    echo "network interface ${link##*/}"
done
if command -v nft >/dev/null; then
    nft list tables 2>/dev/null | sed -n 's/^\(table .* bhatti.*\)/\1/p'
fi
grep -i bhatti /proc/self/mounts | cut -d ' ' -f 2 | sed 's/^/mount /' || true
