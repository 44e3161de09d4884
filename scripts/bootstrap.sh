#!/usr/bin/env bash
# Installs what building and running needs, on Debian and Ubuntu, and only what is missing. With the
# argument "tests" also what only the tests need, with "fuzz" what scripts/fuzz.sh does.
set -euo pipefail

readonly RUST_WANTED=1.90

export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:$HOME/.cargo/bin"

missing=()

# need PROGRAM PACKAGE
need() {
    command -v "$1" >/dev/null || missing+=("$2")
}

# need_file FILE PACKAGE
need_file() {
    [ -e "$1" ] || missing+=("$2")
}

need qemu-system-x86_64 qemu-system-x86
need mkfs.erofs erofs-utils
need mke2fs e2fsprogs
need mmdebstrap mmdebstrap
need depmod kmod
need unshare util-linux
need nft nftables
need ip iproute2
need mount mount
need cc gcc
need_file /usr/include/stdio.h libc6-dev
need git git
need curl curl
need make make
need_file /etc/ssl/certs/ca-certificates.crt ca-certificates
need npm npm

case "${1:-}" in
"") ;;
# The authority that certificates are had from.
tests)
    need zstd zstd
    need pebble pebble
    # For what backups are sent to.
    need python3 python3
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
    # Registries, and what fills them with images.
    need docker-registry docker-registry
    need skopeo skopeo
    need umoci umoci
    need htpasswd apache2-utils
    # Has images of its own, which are imported from it.
    need podman podman
    # Ubuntu's package only leads to a snap, which need not work where tests run. The test that
    # wants a browser says so then.
    . /etc/os-release
    if [ "${ID:-}" = debian ]; then
        need chromium chromium
    fi
    ;;
# The fuzzer itself is C++.
fuzz) need g++ g++ ;;
*)
    echo "usage: bootstrap.sh [tests|fuzz]" >&2
    exit 2
    ;;
esac

updated=no

install() {
    if ! command -v apt-get >/dev/null; then
        echo "missing: $*; there is no apt-get here, install them by hand" >&2
        return 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        echo "missing: $*; run as root: apt-get install --no-install-recommends $*" >&2
        return 1
    fi
    echo "installing: $*" >&2
    if [ "$updated" = no ]; then
        apt-get -qq update >&2
        updated=yes
    fi
    # What QEMU recommends is graphics, which no sandbox has.
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "$@" >&2
}

if [ "${#missing[@]}" -gt 0 ]; then
    install "${missing[@]}"
fi

have_rust() {
    local version
    version=$(cargo --version 2>/dev/null | cut -d ' ' -f 2) || return 1
    [ -n "$version" ] || return 1
    printf '%s\n%s\n' "$RUST_WANTED" "$version" | sort -V -C
}

if ! have_rust; then
    if ! command -v rustup >/dev/null && ! install rustup; then
        found=$(cargo --version 2>/dev/null || echo "no cargo")
        {
            echo "Rust $RUST_WANTED or newer is needed, and there is $found."
            echo "Install it as https://rustup.rs says, and try again."
        } >&2
        exit 1
    fi
    rustup default stable >&2
    have_rust || {
        echo "cargo is still older than $RUST_WANTED: $(command -v cargo)" >&2
        exit 1
    }
fi

# A storage that backups are sent to: moto, with what its S3 needs and nothing of its other services.
moto=${CARGO_TARGET_DIR:-$(dirname "$0")/../target}/moto
if [ "${1:-}" = tests ] && [ ! -x "$moto/bin/moto_server" ]; then
    python3 -m venv "$moto" >&2
    "$moto/bin/pip" install --quiet --disable-pip-version-check \
        'moto[s3]==5.2.*' 'flask==3.*' 'flask-cors==6.*' >&2
fi

# What the page of shared terminals is made of: taken anew only when the list has changed.
web=$(cd "$(dirname "$0")/../crates/daemon/web" && pwd)

# hashes LIST
hashes() {
    grep -o '"integrity": *"[^"]*"' "$1" 2>/dev/null | sort
}

if [ "$(hashes "$web/node_modules/.package-lock.json")" != "$(hashes "$web/package-lock.json")" ]; then
    (cd "$web" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
fi
