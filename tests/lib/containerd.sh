# The containerd versions the tests run on: Debian packages of later suites, unpacked and never installed.
# shellcheck shell=bash

# Upstream version and the suite that carries it. Set a variable to try another.
CURB_CONTAINERD_OLD=${CURB_CONTAINERD_OLD:-1.7.24}
CURB_CONTAINERD_OLD_SUITE=${CURB_CONTAINERD_OLD_SUITE:-trixie}
CURB_CONTAINERD_NEW=${CURB_CONTAINERD_NEW:-2.1.9}
CURB_CONTAINERD_NEW_SUITE=${CURB_CONTAINERD_NEW_SUITE:-forky}

containerd_dir() { printf '%s/containerd-%s\n' "$CURB_CACHE" "$1"; }

# `fetch_containerd OLD|NEW`: unpacks that version into the cache unless it is there.
fetch_containerd() {
    local version_name=CURB_CONTAINERD_$1 suite_name=CURB_CONTAINERD_$1_SUITE
    local version=${!version_name} suite=${!suite_name}
    [[ -x $(containerd_dir "$version")/usr/bin/containerd ]] && return
    step "fetching containerd $version from Debian $suite"
    into "$(containerd_dir "$version")" unpack_containerd "$version" "$suite" "$version_name"
}

unpack_containerd() {
    local version=$1 suite=$2 version_name=$3 out=$4 apt
    apt=$(mktemp -d)
    # apt drops to the user _apt for downloads.
    chmod 0755 "$apt"
    # shellcheck disable=SC2064
    trap "rm -rf '$apt'" EXIT
    mkdir -p "$apt"/{lists,cache}/partial "$apt"/cache/archives/partial "$apt/deb"
    local uri keyring
    read -r uri keyring < <(debian_archive)
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$uri" "$suite" >"$apt/sources.list"
    : >"$apt/status"
    # Private lists, cache and status: nothing of the machine's own package state is read or written.
    local private=(
        -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
        -o "Dir::State::Lists=$apt/lists" -o "Dir::State::Status=$apt/status"
        -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none
        -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false
    )
    quietly apt-get "${private[@]}" -q update
    local have full
    have=$(apt-cache "${private[@]}" madison containerd | awk -F' *[|] *' '{print $2}')
    full=$(grep -E "^${version//./\\.}([~+-]|$)" <<<"$have" | head -n 1 || true)
    [[ -n $full ]] || die "Debian $suite has no containerd $version any more" "it has: ${have//$'\n'/ }" \
        "to try that one: $version_name=$(sed 's/[~+-].*//' <<<"${have%%$'\n'*}") $0"
    (cd "$apt/deb" && quietly apt-get "${private[@]}" -q download "containerd=$full")
    dpkg -x "$apt"/deb/containerd_*.deb "$out"
    "$out/usr/bin/containerd" --version >/dev/null || die "containerd $full does not run on this machine"
    note "containerd $full, signature checked by apt"
}
