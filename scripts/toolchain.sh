# shellcheck shell=bash
# toolchain.sh - the Go toolchain and the linters for the other scripts. Sourced after engine.sh:
#
#   toolchain_go                       sets GO to a go command as new as go.mod asks for
#   toolchain_tool gofumpt             builds one of the pinned tools into build/tools
#
# Nothing is taken from anywhere but Debian and the Go module proxy, whose checksums the go
# command verifies against the public checksum database.

# The pinned tools: command, package, version. The same versions everywhere, until changed here.
TOOLCHAIN_TOOLS='
golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint v2.15.0
gofumpt       mvdan.cc/gofumpt                                       v0.12.0
gotestsum     gotest.tools/gotestsum                                 v1.13.0
benchstat     golang.org/x/perf/cmd/benchstat                        v0.0.0-20260908200009-22c9c6c9d4da
goimports     golang.org/x/tools/cmd/goimports                       v0.52.0
'

# toolchain_wanted prints the version that go.mod asks for.
toolchain_wanted() {
    awk '$1 == "go" { print $2; exit }' go.mod
}

# toolchain_fits GO WANTED tells whether that go command runs and is new enough.
toolchain_fits() {
    local have
    have=$(GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null) || return 1
    printf 'go%s\n%s\n' "$2" "$have" | sort --version-sort --check=quiet
}

# toolchain_candidates prints the go commands of this machine, the likeliest first.
toolchain_candidates() {
    local found
    for found in "$(command -v go)" /usr/local/go/bin/go /usr/lib/go/bin/go /usr/lib/go-*/bin/go; do
        [ -x "$found" ] && printf '%s\n' "$found"
    done
    return 0
}

# toolchain_go sets GO. If no go command is new enough, an old one (Debian's, if there is none)
# fetches the right one as the module golang.org/toolchain; this works from Go 1.13 on, without
# the GOTOOLCHAIN mechanism that came with 1.21.
toolchain_go() {
    local wanted candidate
    wanted=$(toolchain_wanted)
    while read -r candidate; do
        if toolchain_fits "$candidate" "$wanted"; then
            toolchain_use "$candidate"
            return 0
        fi
    done < <(toolchain_candidates)
    candidate=$(toolchain_candidates | head -n 1)
    if [ -z "$candidate" ]; then
        engine_install golang-go=/usr/lib/go/bin/go
        candidate=/usr/lib/go/bin/go
    fi
    toolchain_fetch "$candidate" "$wanted"
}

# toolchain_fetch OLD-GO VERSION sets GO to a toolchain in the module cache, fetched if need be.
toolchain_fetch() {
    local old=$1 module dir
    engine_install ca-certificates=/etc/ssl/certs/ca-certificates.crt
    module=golang.org/toolchain@v0.0.1-go$2.$("$old" env GOOS)-$("$old" env GOARCH)
    dir=$("$old" env GOMODCACHE)/$module
    if [ ! -x "$dir/bin/go" ]; then
        engine_say "fetching Go $2 from the module proxy"
        # Outside of any module: an old go command may not understand our go.mod.
        (cd / && GOTOOLCHAIN=local GOFLAGS='' "$old" mod download "$module")
        # Modules carry no execute bits; only commands live in these directories.
        find "$dir/bin" "$dir/pkg/tool" -type f -exec chmod a+x {} +
    fi
    toolchain_fits "$dir/bin/go" "$2" || engine_die "Go $2 in $dir does not run"
    toolchain_use "$dir/bin/go"
}

# toolchain_use GO sets GO, also for the tools that call plain "go".
toolchain_use() {
    GO=$1
    export GOTOOLCHAIN=local
    [ "$(command -v go)" = "$GO" ] || export PATH="${GO%/*}:$PATH"
}

# toolchain_tool NAME prints the path of a pinned tool, which it builds if it is not there yet.
toolchain_tool() {
    local name package version dir
    read -r name package version < <(awk -v name="$1" '$1 == name' <<<"$TOOLCHAIN_TOOLS")
    dir=$PWD/build/tools/$version
    if [ ! -x "$dir/$name" ]; then
        engine_say "building $name $version" >&2
        (cd / && GOBIN=$dir "$GO" install "$package@$version") >&2
    fi
    printf '%s/%s\n' "$dir" "$name"
}
