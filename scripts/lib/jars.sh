# Jars from Maven Central, with all that they need, in a directory of the cache. Sourced after common.sh.
# shellcheck shell=bash disable=SC2034,SC2154 # others use them, and common.sh sets them

# The broker of tests, benchmarks and the demo; tests/src/kafka.rs says it too.
kafka=${KAFKA_VERSION:-4.1.2}

# fetch_jars NAME COORDINATES…: puts the jars of the artifacts (GROUP:ARTIFACT:VERSION) and of all that they need at run
# time into $cache/NAME/libs. Does nothing when they are there; NAME must therefore say the versions. The directory
# appears in one step, so it is never seen half filled.
fetch_jars() {
    local name=$1 target=$cache/$1 work group artifact version first
    shift
    if [ -d "$target/libs" ]; then
        say "$target is there"
        return
    fi
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/.fetch-jars-XXXXXX")
    # Expanded now: the function's variables are gone when the script ends.
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    {
        echo '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        echo '<groupId>dev.crashmonitor</groupId><artifactId>jars</artifactId><version>1</version><dependencies>'
        for coordinates in "$@"; do
            IFS=: read -r group artifact version <<<"$coordinates"
            echo "<dependency><groupId>$group</groupId><artifactId>$artifact</artifactId><version>$version</version></dependency>"
        done
        echo '</dependencies></project>'
    } > "$work/pom.xml"
    say "fetching $name"
    # Maven's own log names each download; one line for each jar is progress enough.
    mvn --batch-mode --file "$work/pom.xml" \
        org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$work/jars/libs" </dev/null 2>&1 |
        awk -v prefix="$(basename "$0")" \
            '/Downloaded.*\.jar / { n++; sub(/\.jar .*/, ".jar"); sub(/.*\//, ""); printf "%s: %3d %s\n", prefix, n, $0; fflush() }
             /ERROR|BUILD FAILURE/ { print; fflush() }'
    IFS=: read -r group artifact version <<<"$1"
    first=$artifact-$version.jar
    [ -e "$work/jars/libs/$first" ] || die "Maven did not deliver $first"
    # Somebody else may have finished first: their result is as good as ours.
    mv --no-target-directory "$work/jars" "$target" 2>/dev/null || [ -d "$target/libs" ]
    rm -rf "$work"
    say "$(find "$target/libs" -name '*.jar' | wc -l) jars in $target/libs"
}
