#!/usr/bin/env bash
# Runs the targets of fuzz/ with libFuzzer: one of them, or all, for so many seconds each. Inputs that crash one
# are kept in target/fuzz/crashes and shown. Needs no other toolchain than the tests, and g++.
#   scripts/fuzz.sh [TARGET|all] [SECONDS]     scripts/fuzz.sh TARGET FILE     tries one input again
set -euo pipefail
cd "$(dirname "$0")/.."

readonly target=${1:-all} seconds=${2:-60}

export PATH="$PATH:$HOME/.cargo/bin"
scripts/bootstrap.sh fuzz

out=$(realpath -m "${CARGO_TARGET_DIR:-target}")/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
# Told which code an input reaches, and what it was compared with. --target keeps build scripts as they are.
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags+=" -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
RUSTFLAGS="$flags" cargo build --manifest-path fuzz/Cargo.toml --target-dir "$out/build" \
    --target "$host" --release --locked --bins

all=$(sed -n 's/^name = "\(.*\)"$/\1/p' fuzz/Cargo.toml | tail -n +2)
if [ "$target" != all ] && ! grep -qx -- "$target" <<<"$all"; then
    echo "there is no target $target; there are: $(tr '\n' ' ' <<<"$all")" >&2
    exit 2
fi

run() {
    "$out/build/$host/release/$1" "${@:2}"
}

if [ -f "$seconds" ]; then
    run "$target" "$seconds"
    exit
fi

# What tests try is what to begin with.
mkdir -p "$out/tried"
if [ ! -e "$out/tried/complete" ]; then
    BHATTI_FUZZ_TRIED="$out/tried" BHATTI_FUZZ_SECONDS=1 cargo test --quiet --release --locked -p disk -- layer:: archive:: >/dev/null
    touch "$out/tried/complete"
fi

failed=()
for name in $([ "$target" = all ] && echo "$all" || echo "$target"); do
    corpus=$out/corpus/$name crashes=$out/crashes/$name
    mkdir -p "$corpus" "$crashes" "$out/tried/$name"
    seeds=("$corpus" "$out/tried/$name")
    [ ! -d "fuzz/seeds/$name" ] || seeds+=("fuzz/seeds/$name")
    echo "== $name: $seconds s"
    if ! run "$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
        -print_final_stats=1 -artifact_prefix="$crashes/" "${seeds[@]}" >"$out/$name.log" 2>&1; then
        failed+=("$name")
        grep -v '^#' "$out/$name.log" | tail -40 >&2
    fi
    grep -E 'DONE|INITED|stat::(number_of_executed_units|peak_rss_mb)' "$out/$name.log" || true
done

if [ "${#failed[@]}" -gt 0 ]; then
    echo "FAILED: ${failed[*]}; what they failed with:" >&2
    for name in "${failed[@]}"; do
        find "$out/crashes/$name" -type f -printf '%p (%s bytes)\n' >&2
    done
    echo "again: scripts/fuzz.sh TARGET FILE" >&2
    exit 1
fi
