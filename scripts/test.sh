#!/usr/bin/env bash
# Runs all tests. The runner's own summary is the last thing that is printed.
set -euo pipefail

if cargo nextest --version >/dev/null 2>&1; then
    exec cargo nextest run --release --workspace --locked
fi
exec cargo test --release --workspace --locked
