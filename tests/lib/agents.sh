# Builds the images of tests/containerd_agents.rs: the runtimes agents are written in and the tools the floor breaks by
# design, from Debian packages that are unpacked and never installed.
# shellcheck shell=bash

# Node 20, Java 21 and Go 1.24 with MPTCP by default need no older suite than this one.
CURB_RUNTIMES_SUITE=${CURB_RUNTIMES_SUITE:-trixie}

# `debian_root ROOT PACKAGE...`: an agent's root with these packages and all they depend on. No package script runs.
debian_root() {
    local root=$1 directory package
    shift
    if [[ ! -d $runtimes_work/apt ]]; then
        note "package lists of Debian $CURB_RUNTIMES_SUITE"
        private_apt "$CURB_RUNTIMES_SUITE" "$runtimes_work/apt"
    fi
    skeleton "$root"
    for directory in bin sbin lib lib64; do
        mkdir -p "$root/usr/$directory"
        ln -s "usr/$directory" "$root/$directory"
    done
    local install=(apt-get "${private_apt[@]}" -q install -y --no-install-recommends "$@")
    quietly "${install[@]}" --download-only
    # What would be installed into an empty machine, one `Inst NAME (VERSION ...)` each.
    for package in $("${install[@]}" --simulate | sed -n 's/^Inst \([^ ]*\) .*/\1/p'); do
        dpkg-deb --fsys-tarfile "$runtimes_work"/apt/cache/archives/"$package"_*.deb |
            tar -x -C "$root" --keep-directory-symlink --exclude=./usr/share/{doc,man,info,locale,lintian,bug}
    done
    find "$root" -xdev -perm /6000 -type f -exec chmod a-s {} +
    mkdir -p "$root"/agent/{runtime,logs}
    chown -R 1000:1000 "$root/agent"
}

# `inside ROOT COMMAND...`: with /proc, through which Go and Java find their own directories; the mount ends with the command.
inside() {
    # shellcheck disable=SC2016
    quietly unshare --mount sh -euc 'mount --bind /proc "$1/proc"; exec chroot "$@"' sh "$@"
}

# Compilers in a root of their own, which is thrown away with the other work.
toolchain() {
    [[ -d $runtimes_work/toolchain ]] && return
    debian_root "$runtimes_work/toolchain" gcc libc6-dev musl-tools golang-go dash
    mknod -m 0666 "$runtimes_work/toolchain/dev/null" c 1 3
}

# `compile SOURCE-DIRECTORY OUT-DIRECTORY COMMAND`: runs a shell command of the toolchain in a copy of the sources.
compile() {
    toolchain
    rm -rf "$runtimes_work/toolchain/work"
    cp -r "$1" "$runtimes_work/toolchain/work"
    mkdir "$runtimes_work/toolchain/work/out"
    CGO_ENABLED=0 GOFLAGS=-trimpath GOTOOLCHAIN=local HOME=/tmp \
        inside "$runtimes_work/toolchain" sh -euc "cd /work; $3"
    cp "$runtimes_work"/toolchain/work/out/* "$2/"
}

# `trim ROOT PATH...`: removes what no program of the image opens, so that containerd has less to unpack.
trim() {
    (cd "$1" && shopt -s nullglob && rm -rf usr/include usr/lib/*/{*.a,gconv,perl*} usr/share/perl* "${@:2}")
}

cpython_root() {
    debian_root "$1" python3 python3-numpy libopenblas0-pthread python3-pip openssl coreutils sed dash
    # Left to package scripts by Debian: which of the BLAS libraries is the system's, and the bundle that pip opens.
    (cd "$1"/usr/lib/*-linux-gnu && ln -s openblas-pthread/lib*.so.? .)
    mkdir -p "$1/etc/ssl/certs"
    cat "$1"/usr/share/ca-certificates/mozilla/*.crt >"$1/etc/ssl/certs/ca-certificates.crt"
    trim "$1" usr/lib/python3/dist-packages/numpy/{_core/tests,f2py,random/tests}
    cp "$CURB_ROOT/tests/images/cpython/work.py" "$1/agent/"
}

node_root() {
    debian_root "$1" nodejs npm coreutils dash
    local modules=usr/share/nodejs
    # Only what compiles or bundles modules wants these.
    trim "$1" usr/lib/python3* usr/bin/python3* $modules/{@babel,@types,core-js*,webpack,eslint*,es-abstract,corepack} \
        $modules/{caniuse-lite,lodash-es,web-streams-polyfill,terser,typescript}
    cp "$CURB_ROOT/tests/images/node/work.mjs" "$1/agent/"
}

java_root() {
    debian_root "$1" openjdk-21-jre-headless libeclipse-jdt-core-compiler-batch-java dash
    local home
    home=$(cd "$1" && echo usr/lib/jvm/java-21-openjdk-*)
    ln -s "../../$home/bin/java" "$1/usr/bin/java"
    cp "$CURB_ROOT/tests/images/java/Work.java" "$1/agent/"
    # A compiler in one file, where a JDK is another 80 MB; it knows the language up to 20, the library is the JVM's.
    inside "$1" java -cp /usr/share/java/eclipse-jdt-core-compiler-batch.jar org.eclipse.jdt.internal.compiler.batch.Main \
        -20 -d /agent /agent/Work.java
    trim "$1" usr/share/{java,maven-repo} usr/lib/eclipse "$home/lib/server/classes_nocoops.jsa"
}

native_root() {
    debian_root "$1" git dash coreutils sed
    compile "$CURB_ROOT/tests/images/native" "$1/agent" '
        musl-gcc -static -O2 -Wall -Werror -o out/musl musl.c
        gcc -static -O2 -Wall -Werror -D_GNU_SOURCE -o out/landlock landlock.c
        go build -ldflags=-s -o out/go work.go'
    cp "$CURB_ROOT/tests/images/native/git.sh" "$1/agent/"
    trim "$1" usr/bin/perl*
}

debuggers_root() {
    debian_root "$1" strace gdb bubblewrap keyutils numactl coreutils dash
    local commands='gcc -fsanitize=address -static-libasan -g -o out/leak leak.c'
    [[ $(dpkg --print-architecture) == amd64 ]] && commands+='; as --32 -o i386.o i386.s; ld -m elf_i386 -s -o out/i386 i386.o'
    compile "$CURB_ROOT/tests/images/debuggers" "$1/agent" "$commands"
    trim "$1" usr/bin/perl*
}

build_runtime_images() (
    images=$CURB_ROOT/tests/images
    env='"Env":["PATH=/usr/bin:/bin","HOME=/agent/runtime","TMPDIR=/agent/runtime","PYTHONDONTWRITEBYTECODE=1","GIT_AUTHOR_NAME=agent","GIT_AUTHOR_EMAIL=agent@localhost","GIT_COMMITTER_NAME=agent","GIT_COMMITTER_EMAIL=agent@localhost"],"User":"1000:1000","WorkingDir":"/agent"'
    runtimes_work=$(mktemp -d)
    trap 'rm -rf "$runtimes_work"' EXIT
    for name in cpython node java native debuggers; do
        build_image "$name" "{$env}" "$images/$name"/* <(declare -f debian_root inside toolchain compile trim)
    done
)
