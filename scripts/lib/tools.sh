# kubectl, helm, kind, and the parts of a control plane: used from the path where they are there, else built from their Go modules into the cache, each
# in a directory of its version, with a link in tools/bin. Sourced after common.sh.
# shellcheck shell=bash disable=SC2154 # common.sh sets them

tools_bin=$cache/tools/bin
# Not in go.mod with the others: all of them would be compiled anew with what it lifts.
kwok_version=v0.7.0

# use_tools NAME...: makes each of them callable.
use_tools() {
    local name
    for name in "$@"; do
        case $name in
        kubectl) use_tool kubectl k8s.io/kubernetes k8s.io/kubernetes/cmd/kubectl "about 4 minutes" ;;
        helm) use_tool helm helm.sh/helm/v3 helm.sh/helm/v3/cmd/helm "about 3 minutes" ;;
        kube-apiserver) use_tool "$name" k8s.io/kubernetes k8s.io/kubernetes/cmd/kube-apiserver "about 6 minutes" ;;
        kube-controller-manager)
            use_tool "$name" k8s.io/kubernetes k8s.io/kubernetes/cmd/kube-controller-manager "about 4 minutes" ;;
        kube-scheduler) use_tool "$name" k8s.io/kubernetes k8s.io/kubernetes/cmd/kube-scheduler "about 4 minutes" ;;
        etcd) use_tool etcd go.etcd.io/etcd/server/v3 go.etcd.io/etcd/server/v3 "about 1 minute" server ;;
        kind) use_tool kind sigs.k8s.io/kind sigs.k8s.io/kind "some seconds" ;;
        kwok) use_tool kwok "sigs.k8s.io/kwok@$kwok_version" sigs.k8s.io/kwok/cmd/kwok "about 2 minutes" ;;
        *) die "no tool is called $name" ;;
        esac
    done
}

# use_tool NAME MODULE PACKAGE HOW_LONG [FILE]: FILE is what go calls it, if not NAME. MODULE@VERSION is built by itself, with
# what its own go.mod names; Go's checksum database vouches for it.
use_tool() {
    case ":$PATH:" in *":$tools_bin:"*) ;; *) export PATH=$PATH:$tools_bin ;; esac
    has "$1" && return
    local version target work
    case $2 in *@*) version=${2#*@} ;; *) version=$(module_version "$2") ;; esac
    target=$cache/tools/$1-$version
    if ! [ -x "$target/$1" ]; then
        say "building $1 $version ($4 the first time)"
        mkdir -p "$cache/tools"
        work=$(mktemp -d "$cache/tools/.$1-XXXXXX")
        case $2 in
        *@*) GOBIN=$work CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "$3@$version" </dev/null ;;
        *) "$root/tests/kind-node/go-build" "$work" "$3" ;;
        esac
        [ -z "${5:-}" ] || mv "$work/$5" "$work/$1"
        # Somebody else may have finished first: their result is as good as ours.
        mv --no-target-directory "$work" "$target" 2>/dev/null || rm -rf "$work"
    fi
    mkdir -p "$tools_bin"
    ln -sfn "../$1-$version/$1" "$tools_bin/$1"
}

# cluster_is_there: whether kind knows of the cluster, whatever state it is in.
cluster_is_there() { kind get clusters 2>/dev/null | grep -x "$cluster" >/dev/null; }

# load_image IMAGE: gives it to each worker node that doesn't have it, if there is a cluster. A label on the node's image
# says which it is: asking for that through kind takes crictl, which our node image lacks.
load_image() {
    cluster_is_there || return 0
    local id node missing=()
    id=$(docker image inspect --format '{{.Id}}' "$1")
    for node in $(kind get nodes --name "$cluster" | grep -v -- -control-plane); do
        docker exec "$node" ctr --namespace k8s.io images ls "name==docker.io/$1" | grep "docker-id=$id" >/dev/null ||
            missing+=("$node")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "loading $1"
    kind load docker-image --quiet --name "$cluster" --nodes "$(IFS=,; echo "${missing[*]}")" "$1"
    for node in "${missing[@]}"; do
        docker exec "$node" ctr --namespace k8s.io images label "docker.io/$1" "docker-id=$id" >/dev/null
    done
}
