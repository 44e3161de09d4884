#!/usr/bin/env bash
# Runs all tests. The runner's own summary is the last thing that is printed.
set -euo pipefail

# Two thirds of the time that a fresh machine needs for these crates' tests would go into optimising them.
quick=(--config scripts/unoptimised.toml)
if cargo nextest --version >/dev/null 2>&1; then
    exec cargo nextest run "${quick[@]}" --release --workspace --locked
fi
exec cargo test "${quick[@]}" --release --workspace --locked
