# A node to boot: Debian with systemd and cgroup v2 in QEMU, and a disk with what is to be tested in it.
# shellcheck shell=bash

NODE_SUITE=trixie
# Where the node has what $CURB_CACHE has here.
NODE_CACHE=/var/cache/curb-tests
NODE_PACKAGES=(
    systemd systemd-sysv udev dbus linux-image-amd64 kmod
    selinux-policy-default policycoreutils selinux-utils
    runc apparmor containernetworking-plugins iproute2 procps busybox-static ca-certificates
)
# Nothing a test looks at, and each costs seconds of an emulated boot. containerd loads its AppArmor profile itself.
NODE_WITHOUT=(
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer e2scrub_reap.service
    apparmor.service ldconfig.service modprobe@{configfs,drm,efi_pstore,fuse}.service sys-fs-fuse-connections.mount
    sys-kernel-config.mount proc-sys-fs-binfmt_misc.automount systemd-binfmt.service systemd-firstboot.service
    systemd-hwdb-update.service systemd-journal-catalog-update.service systemd-network-generator.service
    systemd-pcrmachine.service systemd-pcrphase.service systemd-pcrphase-sysinit.service systemd-pstore.service
    systemd-random-seed.service systemd-sysusers.service systemd-tpm2-setup-early.service systemd-tpm2-setup.service
    systemd-udev-load-credentials.service systemd-update-done.service serial-getty@hvc0.service
)

# `suite_root VARIANT DIR PACKAGE...`: packages of the node's suite in a directory, signatures checked by apt.
suite_root() {
    local variant=$1 dir=$2 uri keyring packages
    packages=$(IFS=,; echo "${*:3}")
    read -r uri keyring < <(debian_archive)
    # INITRD=No: make_initrd makes a smaller one.
    INITRD=No quietly mmdebstrap --mode=root --format=directory --variant="$variant" --include="$packages" \
        --keyring="$keyring" --aptopt='Acquire::Languages "none"' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        "$NODE_SUITE" "$dir" "$uri"
}

# QEMU with its libraries and loader, unpacked and never installed: the machine's own may be too old for the kernel.
qemu_dir() { printf '%s/qemu-%s\n' "$CURB_CACHE" "$NODE_SUITE"; }


fetch_qemu() {
    [[ -e $(qemu_dir) ]] && return
    step "fetching QEMU from Debian $NODE_SUITE"
    into "$(qemu_dir)" unpack_qemu
}

unpack_qemu() { suite_root extract "$1" qemu-system-x86; }

# `qemu SECONDS ARGUMENT...`: QEMU, ended after so many seconds with status 124.
qemu() {
    local root limit=$1
    root=$(qemu_dir)
    timeout --foreground --kill-after=5 "$limit" \
        "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" \
        "$root/usr/bin/qemu-system-x86_64" -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" \
        -nodefaults -no-user-config -display none "${@:2}"
}

# Keyed by all that makes it, so a changed file of tests/node/root or package list makes a new one.
node_dir() {
    local digest
    digest=$({
        declare -f fill_node make_initrd label_node
        echo "$(node_packages_dir)" "${NODE_WITHOUT[@]}" "$CURB_CONTAINERD_OLD" "$CURB_CONTAINERD_NEW"
        cd "$CURB_ROOT/tests/node/root" && find . -type f -printf '%m %p\n' -exec sha256sum {} +
    } | sort | sha256sum)
    printf '%s/node-%.12s\n' "$CURB_CACHE" "$digest"
}

node_packages_dir() {
    local digest
    digest=$({ declare -f suite_root; echo "$NODE_SUITE" "${NODE_PACKAGES[@]}"; } | sha256sum)
    printf '%s/node-packages-%.12s\n' "$CURB_CACHE" "$digest"
}

install_packages() { suite_root minbase "$1" "${NODE_PACKAGES[@]}"; }

build_node() {
    local dir packages
    dir=$(node_dir) packages=$(node_packages_dir)
    if [[ ! -e $packages ]]; then
        step "installing the node: Debian $NODE_SUITE with systemd"
        into "$packages" install_packages
    fi
    if [[ ! -e $dir ]]; then
        step "building the node's disk"
        into "$dir" fill_node "$packages"
        note "${dir##*/}: $(du -h "$dir/root.img" | cut -f1)"
        # What older lists made, unless it was used in the last day.
        find "$CURB_CACHE" -maxdepth 1 -name 'node-*' -mmin +1440 -exec rm -rf {} +
    fi
    touch "$dir" "$packages"
}

fill_node() {
    local packages=$1 out=$2 root=$2/root unit version
    cp -a "$packages" "$root"
    cp -L "$root/vmlinuz" "$out/vmlinuz"
    rm -rf "$root"/boot/*
    make_initrd "$root" "$out/initrd"
    for unit in "${NODE_WITHOUT[@]}"; do ln -sf /dev/null "$root/etc/systemd/system/$unit"; done
    # With an id of its own and no password for root, a boot is neither a first one nor a locked one.
    sha256sum <<<"$out" | cut -c1-32 >"$root/etc/machine-id"
    echo node >"$root/etc/hostname"
    chroot "$root" passwd --delete --quiet root
    cp -a --no-preserve=ownership "$CURB_ROOT/tests/node/root/." "$root/"
    mkdir -p "$root/curb" "$root$NODE_CACHE"
    ln -s /curb/{images,rootfs} "$root$NODE_CACHE/"
    for version in "$CURB_CONTAINERD_OLD" "$CURB_CONTAINERD_NEW"; do
        cp -a "$(containerd_dir "$version")" "$root$NODE_CACHE/"
    done
    label_node "$root"
    truncate -s 8G "$out/root.img"
    quietly mkfs.ext4 -q -E root_owner=0:0 -d "$root" "$out/root.img"
    rm -rf "$root"
}

# The distribution's kernel has the drivers of its root's disk as modules: this loads them, and is gone.
make_initrd() {
    local root=$1 out=$2 kernel driver module
    kernel=$(ls "$root/usr/lib/modules")
    mkdir -p "$out.d"/{bin,dev,proc,root}
    cp "$root/bin/busybox" "$out.d/bin/"
    {
        echo '#!/bin/busybox sh'
        for driver in nvme ext4; do chroot "$root" modprobe --set-version "$kernel" --show-depends "$driver"; done |
            while read -r _ module; do
                "$root/bin/busybox" xzcat "$root$module" >"$out.d/${module##*/}"
                echo "/bin/busybox insmod /${module##*/}"
            done
        cat <<'INIT'
/bin/busybox mount -t devtmpfs dev /dev
while ! /bin/busybox mount -t ext4 /dev/nvme0n1 /root 2>/dev/null; do /bin/busybox usleep 20000; done
/bin/busybox umount /dev
exec /bin/busybox switch_root /root /sbin/init
INIT
    } >"$out.d/init"
    chmod +x "$out.d/init"
    (cd "$out.d" && find . | "$root/bin/busybox" cpio -o -H newc -R 0:0) >"$out" 2>/dev/null
    rm -rf "$out.d"
}

# Gives each file the SELinux label it has on a node, so that one booted with SELinux need not do it first.
label_node() {
    local root=$1 contexts=/etc/selinux/default/contexts/files version
    for version in "$CURB_CONTAINERD_OLD" "$CURB_CONTAINERD_NEW"; do
        echo "$NODE_CACHE/containerd-$version/usr /usr"
    done >"$root$contexts/file_contexts.subs"
    quietly chroot "$root" semodule --noreload --install /etc/selinux/node.cil
    quietly chroot "$root" setfiles -F "$contexts/file_contexts" /
}

# The same for the second disk's files.
label_payload() {
    local root
    root=$(node_packages_dir)
    quietly "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" \
        "$root/usr/sbin/setfiles" -F -r "$1" "$CURB_ROOT/tests/node/contexts" "$1"
}

# KVM where a guest really runs on it. There are machines with a /dev/kvm on which none does, so a kernel is
# booted to its panic for want of a root; what came of it holds until the machine is booted again.
node_accelerator() {
    local known=$CURB_CACHE/node-accelerator boot accelerator=tcg log
    boot=$(</proc/sys/kernel/random/boot_id)
    if [[ ! -e $known || $(<"$known") != "$boot "* ]]; then
        log=$(mktemp)
        if [[ -w /dev/kvm ]]; then
            qemu 20 -accel kvm -cpu host -no-reboot -m 512 -kernel "$(node_dir)/vmlinuz" -append "console=ttyS0 panic=-1" \
                -serial "file:$log" >/dev/null 2>&1 </dev/null || true
            grep -q 'Kernel panic' "$log" && accelerator=kvm
        fi
        rm -f "$log"
        echo "$boot $accelerator" >"$known.$$"
        mv "$known.$$" "$known"
    fi
    cut -d' ' -f2 "$known"
}

# `boot_node SECONDS PAYLOAD KERNEL-ARGUMENTS QEMU-ARGUMENT...`: changes to its disk are forgotten at the end.
boot_node() {
    local limit=$1 payload=$2 kernel_arguments=$3 dir accelerator
    dir=$(node_dir)
    accelerator=$(node_accelerator)
    local -A machine=(
        [kvm]="-accel kvm -cpu host"
        # A plain CPU is emulated faster than one with all there is.
        [tcg]="-accel tcg,thread=multi -cpu Nehalem"
    )
    # Two drivers for the two disks, so names never swap.
    # shellcheck disable=SC2086
    TMPDIR=/var/tmp qemu "$limit" ${machine[$accelerator]} -machine q35,sata=off,smbus=off,usb=off -smp 2 -m 3072 \
        -kernel "$dir/vmlinuz" -initrd "$dir/initrd" \
        -append "root=/dev/nvme0n1 rw console=ttyS0 panic=-1 TERM=dumb systemd.show_status=0 net.ifnames=0 \
mitigations=off cryptomgr.notests syscall.x32=y $kernel_arguments" \
        -drive "if=none,id=root,format=raw,snapshot=on,file=$dir/root.img" -device nvme,serial=root,drive=root \
        -drive "if=none,id=curb,format=raw,readonly=on,file=$payload" -device virtio-blk,drive=curb \
        -device virtio-rng -device virtio-serial "${@:4}"
}
