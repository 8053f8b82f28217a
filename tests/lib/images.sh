# Builds the test images from what the machine has; no image registry is asked.
# shellcheck shell=bash

# `image NAME ROOT CONFIG-JSON OUT.tar`: an OCI archive of one layer, named curb.test/NAME:1.
# Sorted names, zero times and numeric owners: the same root always gives the same digest.
write_image() {
    local name=$1 root=$2 config=$3 out=$4 work
    work=$(mktemp -d "$out.XXXXXX")
    mkdir -p "$work/blobs/sha256"
    tar --sort=name --mtime=@0 --numeric-owner --format=gnu -C "$root" -cf "$work/layer" .
    local layer manifest index
    layer=$(add_blob "$work" "$work/layer")
    printf '{"architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["%s"]}}' \
        "$(dpkg --print-architecture)" "$config" "${layer%% *}" >"$work/config"
    config=$(add_blob "$work" "$work/config")
    printf '{"schemaVersion":2,"mediaType":"%s","config":%s,"layers":[%s]}' \
        application/vnd.oci.image.manifest.v1+json \
        "$(descriptor application/vnd.oci.image.config.v1+json "$config")" \
        "$(descriptor application/vnd.oci.image.layer.v1.tar "$layer")" >"$work/manifest"
    manifest=$(add_blob "$work" "$work/manifest")
    index=$(descriptor application/vnd.oci.image.manifest.v1+json "$manifest")
    printf '{"schemaVersion":2,"manifests":[%s,"annotations":{"io.containerd.image.name":"curb.test/%s:1"}}]}' \
        "${index%\}}" "$name" >"$work/index.json"
    printf '{"imageLayoutVersion":"1.0.0"}' >"$work/oci-layout"
    tar -C "$work" -cf "$out.part" oci-layout index.json blobs
    rm -rf "$work"
    mv "$out.part" "$out"
}

# Moves a file to its place by digest and prints "sha256:DIGEST SIZE".
add_blob() {
    local digest size
    digest=$(sha256sum "$2" | cut -d' ' -f1)
    size=$(stat -c %s "$2")
    mv "$2" "$1/blobs/sha256/$digest"
    printf 'sha256:%s %s\n' "$digest" "$size"
}

descriptor() { printf '{"mediaType":"%s","digest":"%s","size":%s}' "$1" "${2% *}" "${2#* }"; }

# A program of tests/bin that needs nothing but the kernel.
static_program() {
    local source=$CURB_ROOT/tests/bin/$1.rs
    [[ -e $source ]] || source=$CURB_ROOT/tests/bin/$1/main.rs
    rustc --edition 2024 --crate-name "$1" -C opt-level=s -C panic=abort -C strip=symbols \
        -C target-feature=+crt-static -o "$2" "$source"
}

# What every root has: a user, a group, and places to mount on.
skeleton() {
    mkdir -p "$1"/{etc,proc,sys,dev,tmp}
    chmod 1777 "$1/tmp"
    printf 'root:x:0:0:root:/:/bin/sh\nagent:x:1000:1000:agent:/agent:/bin/sh\n' >"$1/etc/passwd"
    printf 'root:x:0:\nagent:x:1000:\n' >"$1/etc/group"
}

agent_layout() {
    mkdir -p "$1"/agent/{runtime,logs,secrets}
    cp "$CURB_ROOT"/tests/images/agent/{entrypoint.py,config.yaml} "$1/agent/"
    chmod 0755 "$1/agent/entrypoint.py"
    chown -R 1000:1000 "$1/agent"
    chmod 0700 "$1/agent/secrets"
}

pause_root() {
    skeleton "$1"
    static_program pause "$1/pause"
}

busybox_root() {
    skeleton "$1"
    mkdir -p "$1/bin" "$1"/agent/{runtime,logs,secrets}
    chown -R 1000:1000 "$1/agent"
    cp /bin/busybox "$1/bin/busybox"
    local applet
    for applet in $(/bin/busybox --list); do
        [[ $applet == busybox ]] || ln -s busybox "$1/bin/$applet"
    done
}

probe_root() {
    busybox_root "$1"
    static_program probe "$1/probe"
    cp "$1/probe" "$1/probe-setuid"
    chmod 4755 "$1/probe-setuid"
    printf 'no program\n' >"$1/not-a-program"
    chmod 0755 "$1/not-a-program"
}

# A Python of the machine's own distribution, unpacked without running a package script: no shell,
# no package manager, nothing setuid.
python_root() {
    local root=$1 suite mirror
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    mirror=$(apt-get indextargets --format '$(RELEASE)|$(COMPONENT)|$(REPO_URI)' 'Identifier: Packages' 2>/dev/null |
        sed -n "s/^$suite|main|//p" | head -n 1)
    quietly mmdebstrap --variant=extract --mode=root --format=directory --include=python3 \
        --aptopt='Acquire::Languages "none"' --dpkgopt='path-exclude=/usr/share/*' "$suite" "$root/full" ${mirror:+"$mirror"}
    skeleton "$root"
    mkdir -p "$root/usr"
    local path
    for path in lib lib64; do
        [[ ! -d $root/full/usr/$path ]] || cp -a "$root/full/usr/$path" "$root/usr/$path"
        # Old suites fill /lib, newer ones link it to /usr/lib, the newest leave that link to a package not taken here.
        if [[ -e $root/full/$path || -L $root/full/$path ]]; then
            cp -a "$root/full/$path" "$root/$path"
        elif [[ -d $root/usr/$path ]]; then
            ln -s "usr/$path" "$root/$path"
        fi
    done
    mkdir -p "$root/usr/bin"
    cp -a "$root"/full/usr/bin/python3* "$root/usr/bin/"
    rm -rf "$root/full"
    # What a Python program never opens, or what has no place in an agent's root.
    (cd "$root/usr/lib" && rm -rf apt dpkg systemd init udev gcc git-core tmpfiles.d sysusers.d python3*/{test,idlelib,lib2to3,ensurepip})
    find "$root" -xdev -type d -name __pycache__ -prune -exec rm -rf {} +
    find "$root" -xdev -perm /6000 -type f -delete
    chroot "$root" /usr/bin/python3 -c 'import json, socket, http.server' ||
        die "the Python root does not run"
    agent_layout "$root"
}

# The archive is named by the digest of all that makes it, so a changed source makes a new image.
build_image() {
    local name=$1 config=$2 inputs=("${@:3}") digest stamp out
    out=$CURB_CACHE/images/$name.tar
    stamp=$CURB_CACHE/images/$name.inputs
    digest=$({
        printf '%s\n' "$config"
        declare -f write_image skeleton static_program agent_layout "${name/agent/python}_root"
        [[ $name == probe ]] && declare -f busybox_root
        # By name and content: a clone at another path makes the same image.
        sha256sum "${inputs[@]}" | sed 's, .*/, ,'
    } | sha256sum)
    [[ -e $out && -d $CURB_CACHE/rootfs/$name && -e $stamp && $(<"$stamp") == "$digest" ]] && return
    step "building image $name"
    mkdir -p "$CURB_CACHE/images"
    local root
    root=$(mktemp -d "$CURB_CACHE/images/$name.root.XXXXXX")
    chmod 0755 "$root"
    "${name/agent/python}_root" "$root"
    write_image "$name" "$root" "$config" "$out"
    # Kept for tests that mount a root themselves.
    mkdir -p "$CURB_CACHE/rootfs"
    rm -rf "$CURB_CACHE/rootfs/$name"
    mv "$root" "$CURB_CACHE/rootfs/$name"
    printf '%s\n' "$digest" >"$stamp"
    note "$name: $(du -h "$out" | cut -f1)"
}

build_test_images() {
    local bin=$CURB_ROOT/tests/bin path='"Env":["PATH=/usr/bin:/bin"]'
    build_image pause "{\"Entrypoint\":[\"/pause\"]}" "$bin/pause.rs"
    build_image busybox "{$path,\"Cmd\":[\"sh\"]}" /bin/busybox
    build_image probe "{$path,\"User\":\"1000\",\"Entrypoint\":[\"/probe\"]}" "$bin"/probe/*.rs /bin/busybox
}

build_agent_image() {
    local files=("$CURB_ROOT"/tests/images/agent/*)
    build_image agent '{"Env":["PATH=/usr/bin:/bin","PYTHONUNBUFFERED=1","PYTHONDONTWRITEBYTECODE=1"],"User":"1000:1000","WorkingDir":"/agent","Entrypoint":["/usr/bin/python3","/agent/entrypoint.py"]}' "${files[@]}"
}
