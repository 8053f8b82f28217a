# Shared by tests/run, tests/bench and packaging/try. Source it; it runs nothing by itself.
# shellcheck shell=bash

set -euo pipefail

CURB_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Downloads and images. Everything below is keyed by a version or a digest, so it may be deleted at any time.
CURB_CACHE=${CURB_CACHE:-/var/cache/curb-tests}
export CURB_ROOT CURB_CACHE

if [[ -t 1 ]]; then
    bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
    bold='' dim='' red='' green='' plain=''
fi

say() { printf '%s\n' "$*"; }
step() { printf '%s==>%s %s%s%s\n' "$green" "$plain" "$bold" "$*" "$plain"; }
note() { printf '    %s%s%s\n' "$dim" "$*" "$plain"; }

die() {
    printf '%serror:%s %s\n' "$red" "$plain" "$1" >&2
    shift
    local line
    for line in "$@"; do printf '       %s\n' "$line" >&2; done
    exit 1
}

need_root() {
    [[ $(id -u) == 0 ]] || die "this needs root: it makes namespaces, mounts and cgroups" "run it as: sudo $0"
}

# A shell started by sudo has root's PATH, and cargo is usually in the home of whoever called it.
find_cargo() {
    local home
    for home in "${CARGO_HOME:-}" "$HOME/.cargo" "${SUDO_USER:+$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)/.cargo}"; do
        [[ -n $home && -x $home/bin/cargo ]] || continue
        PATH=$home/bin:$PATH
        # rustup keeps its toolchains beside the cargo home it was installed with.
        [[ -d ${home%/.cargo}/.rustup ]] && export RUSTUP_HOME=${RUSTUP_HOME:-${home%/.cargo}/.rustup}
        break
    done
    command -v cargo >/dev/null && return
    die "cargo is not installed" \
        "Curb needs Rust $(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$CURB_ROOT/Cargo.toml") or later: see https://rustup.rs" \
        "(distribution packages are usually older), then run this again"
}

# Where cargo puts what it builds for this machine.
target_dir() {
    local triple
    triple=$(rustc -vV | sed -n 's/^host: //p')
    printf '%s/%s\n' "${CARGO_TARGET_DIR:-$CURB_ROOT/target}" "$triple"
}

# Runs a command with its output hidden, and shows that output only when the command fails.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 || status=$?
    if [[ $status != 0 ]]; then
        cat "$log" >&2
        rm -f "$log"
        die "'$*' failed with status $status"
    fi
    rm -f "$log"
}

# `into DIR command...`: DIR appears complete or not at all, so a killed run leaves no half cache.
# The command is called with the directory to fill as its last argument.
into() {
    local final=$1 part status
    shift
    [[ -e $final ]] && return 0
    mkdir -p "$(dirname "$final")"
    part=$(mktemp -d "$final.part.XXXXXX")
    chmod 0755 "$part"
    # Not as a condition: bash switches errexit off inside one.
    set +e
    (
        set -e
        "$@" "$part"
    )
    status=$?
    set -e
    if [[ $status != 0 ]]; then
        rm -rf "$part"
        die "${final##*/} could not be made"
    fi
    mv -T "$part" "$final"
}
