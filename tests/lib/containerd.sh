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
    # shellcheck disable=SC2064
    trap "rm -rf '$apt'" EXIT
    private_apt "$suite" "$apt"
    mkdir "$apt/deb"
    local have full
    have=$(apt-cache "${private_apt[@]}" madison containerd | awk -F' *[|] *' '{print $2}')
    full=$(grep -E "^${version//./\\.}([~+-]|$)" <<<"$have" | head -n 1 || true)
    [[ -n $full ]] || die "Debian $suite has no containerd $version any more" "it has: ${have//$'\n'/ }" \
        "to try that one: $version_name=$(sed 's/[~+-].*//' <<<"${have%%$'\n'*}") $0"
    (cd "$apt/deb" && quietly apt-get "${private_apt[@]}" -q download "containerd=$full")
    dpkg -x "$apt"/deb/containerd_*.deb "$out"
    "$out/usr/bin/containerd" --version >/dev/null || die "containerd $full does not run on this machine"
    note "containerd $full, signature checked by apt"
}
