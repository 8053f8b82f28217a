# Installs what is missing from the machine's own distribution (Debian or Ubuntu).
# shellcheck shell=bash

# A command or file that must exist, and the package that brings it.
CURB_NEEDS=(
    "gcc gcc"
    "/usr/share/doc/libc6-dev libc6-dev"
    "/bin/busybox busybox-static"
    "/usr/lib/cni/bridge containernetworking-plugins"
    "runc runc"
    "/usr/share/doc/libseccomp2 libseccomp2"
    "mmdebstrap mmdebstrap"
    "ip iproute2"
    "unshare util-linux"
    "/etc/ssl/certs/ca-certificates.crt ca-certificates"
)

install_missing() {
    command -v apt-get >/dev/null || die "this script installs what it needs with apt, and there is no apt-get here" \
        "Debian and Ubuntu are supported"
    local need missing=()
    for need in "${CURB_NEEDS[@]}"; do
        local what=${need% *} package=${need#* }
        case $what in
            /*) [[ -e $what ]] && continue ;;
            *) command -v "$what" >/dev/null && continue ;;
        esac
        missing+=("$package")
    done
    # The static busybox and the ordinary one own the same path; only the static one runs in an empty root.
    [[ -e /bin/busybox && $(ldd /bin/busybox 2>&1) != *"not a dynamic"* ]] && missing+=(busybox-static)
    ((${#missing[@]} == 0)) && return
    step "installing ${missing[*]}"
    quietly apt-get -q update
    DEBIAN_FRONTEND=noninteractive quietly apt-get -q install -y --no-install-recommends "${missing[@]}"
}

# Prints "URI SIGNED-BY" of a Debian archive: the machine's own when it is a Debian, so that a configured
# mirror is honoured. apt itself reads its sources here, one-line and deb822 alike.
debian_archive() {
    if [[ -n ${CURB_DEBIAN_MIRROR:-} ]]; then
        printf '%s %s\n' "$CURB_DEBIAN_MIRROR" "$(debian_keyring)"
        return
    fi
    local uri
    uri=$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)' 'Identifier: Packages' 2>/dev/null |
        sed -n 's/^Debian|Debian|main|//p' | head -n 1)
    if [[ -z $uri && $(. /etc/os-release && echo "$ID") == debian ]]; then
        # A fresh image has no package lists yet, and apt learns who an archive is from them.
        quietly apt-get -q update
        uri=$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)' 'Identifier: Packages' |
            sed -n 's/^Debian|Debian|main|//p' | head -n 1)
    fi
    # On Ubuntu no source names a Debian archive; mmdebstrap knows the public one.
    [[ -n $uri ]] || uri=$(sed -n "s/.*['\"]\(https\?:\/\/deb\.[a-z.]*\/debian\)['\"].*/\1/p" "$(command -v mmdebstrap)" | head -n 1)
    [[ -n $uri ]] || die "no Debian archive is known on this machine" \
        "the tested containerd versions come from Debian; name a mirror in CURB_DEBIAN_MIRROR (its URI)"
    printf '%s %s\n' "$uri" "$(debian_keyring)"
}

debian_keyring() {
    local ring=/usr/share/keyrings/debian-archive-keyring.gpg
    [[ -e $ring ]] || DEBIAN_FRONTEND=noninteractive quietly apt-get -q install -y --no-install-recommends debian-archive-keyring
    printf '%s\n' "$ring"
}

# `private_apt SUITE DIR`: gives DIR the package lists of a Debian suite, and sets the array of the same name to the options
# with which apt uses them: nothing of the machine's own package state is read or written.
private_apt() {
    local uri keyring
    read -r uri keyring < <(debian_archive)
    mkdir -p "$2"/{lists,cache}/partial "$2"/cache/archives/partial
    # apt drops to the user _apt for downloads.
    chmod 0755 "$2"
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$uri" "$1" >"$2/sources.list"
    : >"$2/status"
    private_apt=(
        -o "Dir::Etc::SourceList=$2/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
        -o "Dir::State::Lists=$2/lists" -o "Dir::State::Status=$2/status"
        -o "Dir::Cache=$2/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none
        -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
    )
    quietly apt-get "${private_apt[@]}" -q update
}
