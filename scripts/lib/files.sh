# Trees of files that become images without a distribution in them: a program with the libraries that it needs, and the
# image that Docker makes of a tree. Sourced after common.sh and docker.sh.
# shellcheck shell=bash

# copy_libraries ROOT PROGRAM...: what the dynamic linker loads for these, at the paths where it finds them here.
copy_libraries() {
    local tree=$1 library
    shift
    while read -r library; do
        [ -e "$tree$library" ] || install -D -m 755 "$library" "$tree$library"
    done < <(ldd "$@" 2>/dev/null | sed -n 's/^[[:space:]]\+\(.* => \)\?\(\/[^ ]*\) .*/\2/p' | sort -u)
}

# import_tree ROOT IMAGE CHANGE...: makes an image of a tree, with instructions as in a Containerfile. An image that was
# made of the same files stays, and so does all that was built on it.
import_tree() {
    local tree=$1 image=$2 change hash
    local changes=()
    shift 2
    local tar=(tar --create --directory "$tree" --sort=name --mtime=@0 --numeric-owner --owner=0 --group=0 .)
    hash=$({ printf '%s\n' "$@"; "${tar[@]}"; } | sha256sum | cut -c 1-16)
    if [ "$(docker image inspect --format '{{index .Config.Labels "crashmonitor.files"}}' "$image" 2>/dev/null)" = "$hash" ]; then return; fi
    for change in "$@" "LABEL crashmonitor.files=$hash"; do changes+=(--change "$change"); done
    "${tar[@]}" | docker import "${changes[@]}" - "$image" >/dev/null
}
