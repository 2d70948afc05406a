# What the scripts for images and clusters share: where things lie, what they are called, and how a script speaks.
# Sourced, never run. It must not change anything on the machine.
# shellcheck shell=bash disable=SC2034 # the names are used by those who source this

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${CRASHMONITOR_CACHE:-$HOME/.cache/crashmonitor}
kubeconfig=$cache/kubeconfig
node_modules=$root/tests/kind-node/go # the Go modules of the node image and of the tools, each version written in go.mod

cluster=$(awk '$1 == "name:" { print $2 }' "$root/kind-config.yaml")
version=$(awk -F '"' '/^version = / { print $2; exit }' "$root/Cargo.toml")
base_image=crashmonitor/base:local # what `make images` puts the binaries on

say() { echo "$(basename "$0"): $*"; }

die() {
    say "$*" >&2
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# image_of PART: the name of the image of `worker` or `operator`, as in the chart.
image_of() { echo "crashmonitor/$1:$version"; }

# module_version MODULE: the version that go.mod names.
module_version() {
    awk -v module="$1" '$1 == module && $2 ~ /^v/ { print $2; exit }' "$node_modules/go.mod"
}
