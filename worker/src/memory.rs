//! How much memory the process has.
//!
//! Responsible for what the system says of it, and for the part that counts get. Must never guess: without a limit there is
//! a fixed amount.

use std::fs;

use crashmonitor_core::config::Config;

/// Where the limit of a container is found, of the second and the first version of control groups.
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
/// Limits from here on mean that there is none: the first version says so with a number.
const NO_LIMIT: u64 = 1 << 50;
/// What counts get where there is no limit: half of the default limit on Kubernetes.
const WITHOUT_LIMIT: u64 = 256 << 20;

/// What counts may take, in bytes: as configured, else half of what the container may use. The other half is for records
/// and results that are on their way, and snapshots while they are stored.
pub fn state_bytes_max(config: &Config) -> usize {
    let of_limit = || limit().map_or(WITHOUT_LIMIT, |limit| limit / 2);
    let bytes = config.worker.state_bytes_max.unwrap_or_else(of_limit);
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn limit() -> Option<u64> {
    LIMITS.iter().find_map(|file| bytes(&fs::read_to_string(file).ok()?))
}

/// What a control group says of its limit; `None` if it has none.
fn bytes(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|&bytes| bytes < NO_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn no_limit_is_said_in_two_ways() {
        assert_eq!(bytes("536870912\n"), Some(512 << 20));
        assert_eq!(bytes("max\n"), None);
        assert_eq!(bytes("9223372036854771712\n"), None);
    }
}
