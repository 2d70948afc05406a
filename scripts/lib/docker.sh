# Docker for images and clusters: the engine that answers `docker info`, else one of our own from Debian's packages.
# Sourced after common.sh. Ours keeps its images in the cache and everything else below /run, has its own socket and
# pid file, and leaves nothing behind when it is stopped: no process, mount, bridge, packet filter rule or cgroup.
# An engine that was there before is used, and never changed or stopped.
# shellcheck shell=bash disable=SC2154 # common.sh sets them

engine_run=/run/crashmonitor-docker
engine_data=$cache/docker
engine_socket=unix://$engine_run/docker.sock
engine_log=$cache/docker.log
engine_bridge=crashmonitor0
engine_table=crashmonitor_docker # of nftables
engine_cgroup=crashmonitor-docker
engine_subnet=172.29.77.0/24 # of the network `kind`
engine_gateway=172.29.77.1

# What Docker, a node's kubelet and start_engine change for the whole machine.
engine_sysctls=(net.ipv4.ip_forward vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops
    kernel.keys.root_maxkeys kernel.keys.root_maxbytes fs.inotify.max_user_instances)

# alone: waits until no other script makes or removes an engine, a cluster or an image here.
alone() {
    mkdir -p "$cache"
    exec 9>"$cache/.cluster.lock"
    flock --nonblock 9 || { say "waiting for another make cluster, cluster-down or images"; flock 9; }
}

# engine_pid: the process id of our dockerd, if it runs.
engine_pid() {
    local pid
    pid=$(cat "$engine_run/docker.pid" 2>/dev/null) || return 1
    runs "$pid" dockerd && echo "$pid"
}

# runs PID PROGRAM: whether that process is there, is that program, and has not ended without anybody having noticed.
runs() { [[ $(readlink "/proc/$1/exe" 2>/dev/null) == */$2 ]]; }

# use_running_engine: points `docker` at an engine that runs, or returns 1.
use_running_engine() {
    if engine_pid >/dev/null; then
        export DOCKER_HOST=$engine_socket
        return
    fi
    has docker && timeout 20 docker info >/dev/null 2>&1
}

# use_engine: points `docker` at an engine; installs and starts ours where none runs.
use_engine() {
    use_running_engine && return
    "$root/scripts/install-deps" docker
    # On a machine with an init system, the package may just have started an engine.
    use_running_engine && return
    start_engine
}

start_engine() {
    [ "$(id -u)" = 0 ] || die "no Docker engine answers, and only root can start one; start Docker, or run this as root"
    local taken
    taken=$(ip -4 route show to match "$engine_gateway" | grep -v -e '^default' -e " dev $engine_bridge " || true)
    [ -z "$taken" ] || die "the machine has a route to $engine_subnet, which the cluster's network needs: $taken"

    say "starting Docker (log: $engine_log)"
    stop_engine # what is left of one that was killed
    mkdir -p "$engine_run" "$engine_data"
    sysctl "${engine_sysctls[@]}" >"$engine_run/sysctls.before"
    # Each node uses about 15 of them, and one for each log that is followed; they count for all nodes together.
    [ "$(sysctl -n fs.inotify.max_user_instances)" -ge 512 ] || sysctl --quiet --write fs.inotify.max_user_instances=512
    give_processor_time
    local options=()
    if ! has_cap_sys_resource; then
        # A copy: this checkout may go before the engine does.
        install -m 755 "$root/scripts/lib/runc-nosysres" "$engine_run/runc-nosysres"
        options+=(--add-runtime "nosysres=$engine_run/runc-nosysres" --default-runtime nosysres)
    fi
    # No bridge and no packet filter rules of its own making: it would leave them behind. See make_network.
    setsid dockerd --data-root "$engine_data" --exec-root "$engine_run/exec" --pidfile "$engine_run/docker.pid" \
        --host "$engine_socket" --storage-driver overlay2 --exec-opt native.cgroupdriver=cgroupfs \
        --cgroup-parent "/$engine_cgroup" --bridge none --iptables=false --log-level warn \
        ${options[@]+"${options[@]}"} </dev/null >"$engine_log" 2>&1 9>&- &
    export DOCKER_HOST=$engine_socket
    local deadline=$((SECONDS + 60))
    until timeout 20 docker info >/dev/null 2>&1; do
        if ! kill -0 $! 2>/dev/null || [ $SECONDS -ge $deadline ]; then
            tail -n 5 "$engine_log" >&2
            stop_engine
            die "dockerd did not start; its log is $engine_log"
        fi
        sleep 0.2
    done
    # It still knows the containers of one that was killed.
    docker ps --all --quiet | xargs --no-run-if-empty docker rm --force --volumes >/dev/null
    make_network
}

# The kernel weighs a whole group against each single process outside of it. All nodes together count as much as eight
# processes: with the weight of one, a compiler beside them is enough for the API server to miss its own deadlines.
give_processor_time() {
    if [ -d /sys/fs/cgroup/cpu ]; then
        mkdir -p "/sys/fs/cgroup/cpu/$engine_cgroup"
        echo 8192 >"/sys/fs/cgroup/cpu/$engine_cgroup/cpu.shares"
    elif [ -f /sys/fs/cgroup/cgroup.controllers ]; then
        mkdir -p "/sys/fs/cgroup/$engine_cgroup"
        # Absent where the root group hands out no processor time.
        { echo 800 >"/sys/fs/cgroup/$engine_cgroup/cpu.weight"; } 2>/dev/null || true
    fi
}

# Bit 24 of the bounding set. Docker gives a privileged container every capability, and fails if one can't be given.
has_cap_sys_resource() {
    local bounding
    bounding=$(awk '$1 == "CapBnd:" { print $2 }' /proc/self/status)
    [ $((16#$bounding >> 24 & 1)) = 1 ]
}

# The network that kind uses if it is there: a bridge and a subnet that are known beforehand, without IPv6, which would
# change the machine's own. Containers reach the outside through one rule, in a table of our own.
make_network() {
    docker network rm kind >/dev/null 2>&1 || true
    local device mtu
    device=$(ip -4 route show default | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n 1)
    mtu=$(cat "/sys/class/net/$device/mtu" 2>/dev/null || echo 1500)
    docker network create --driver bridge --subnet "$engine_subnet" --gateway "$engine_gateway" \
        --opt "com.docker.network.bridge.name=$engine_bridge" --opt "com.docker.network.driver.mtu=$mtu" kind >/dev/null
    nft -f - <<NFT
table ip $engine_table {}
delete table ip $engine_table
table ip $engine_table {
    chain out {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr $engine_subnet oifname != "$engine_bridge" masquerade
    }
}
NFT
}

# host_address: where processes on this machine can be reached from pods.
host_address() {
    docker network inspect kind --format '{{range .IPAM.Config}}{{.Gateway}} {{end}}' 2>/dev/null |
        tr ' ' '\n' | grep -m 1 '\.'
}

# stop_engine: ends our engine and removes all that it made, apart from its images. Does nothing if there is none.
stop_engine() {
    [ -d "$engine_run" ] || return 0
    local pid
    if pid=$(engine_pid); then
        say "stopping Docker"
        DOCKER_HOST=$engine_socket docker network rm kind >/dev/null 2>&1 || true
        end_process "$pid" dockerd
    fi
    # It ends its containerd itself, unless it had to be killed.
    if pid=$(cat "$engine_run/exec/containerd/containerd.pid" 2>/dev/null) && runs "$pid" containerd; then
        end_process "$pid" containerd
    fi
    kill_leftovers
    local mount
    while read -r mount; do umount -l "$mount"; done < <(
        awk -v run="$engine_run/" -v data="$engine_data/" 'index($2 "/", run) == 1 || index($2 "/", data) == 1 { print $2 }' \
            /proc/mounts | sort -r
    )
    ip link delete "$engine_bridge" 2>/dev/null || true
    nft delete table ip "$engine_table" 2>/dev/null || true
    remove_cgroups
    if [ -f "$engine_run/sysctls.before" ]; then sysctl --quiet --load="$engine_run/sysctls.before"; fi
    rm -rf "$engine_run"
    # Two places that Docker and its containerd can't be talked out of. What is in use is not empty.
    find /run/docker /run/containerd -depth -type d -empty -delete 2>/dev/null || true
}

# kill_leftovers: the containers of a dockerd that was killed, and the processes of containerd that look after them.
kill_leftovers() {
    {
        find /sys/fs/cgroup -path "*/$engine_cgroup/*" -name cgroup.procs -exec cat {} + 2>/dev/null
        pgrep -f -- "^[^ ]*containerd-shim.* -address $engine_run/"
    } | sort -u | xargs --no-run-if-empty kill -KILL 2>/dev/null || true
}

# remove_cgroups: the kernel lets go of a group some moments after its last process; 10 s are far more than that takes.
remove_cgroups() {
    local deadline=$((SECONDS + 10))
    until find /sys/fs/cgroup -depth -type d -path "*/$engine_cgroup*" -exec rmdir {} + 2>/dev/null; do
        if [ $SECONDS -ge $deadline ]; then
            say "some of /sys/fs/cgroup/*/$engine_cgroup can't be removed" >&2
            return
        fi
        sleep 0.1
    done
}

# end_process PID PROGRAM: asks, waits up to 30 s, then kills.
end_process() {
    kill "$1" 2>/dev/null || return 0
    local deadline=$((SECONDS + 30))
    while runs "$1" "$2"; do
        if [ $SECONDS -ge $deadline ]; then
            say "$2, process $1, did not end within 30 s: killing it"
            kill -KILL "$1" 2>/dev/null || true
            return
        fi
        sleep 0.1
    done
}

# build_image OPTION... CONTEXT: docker build, quiet unless it fails.
# The builder without BuildKit is in every Docker, and sees images that are only here.
build_image() {
    local log
    log=$(DOCKER_BUILDKIT=0 docker build --network none "$@" 2>&1) || die "docker build $*: $log"
}
