#!/usr/bin/env bash
# Prepares the kernel and images in a data directory; what is there already stays.
# usage: prepare.sh BHATTI DATA IMAGE...
set -euo pipefail

bhatti=$1
data=$2
shift 2

"$bhatti" --data-dir "$data" kernel
for image in "$@"; do
    "$bhatti" --data-dir "$data" image prepare "$image"
done
