//! What is in this process's memory stays there.
//!
//! Responsible for core dumps, of which there are none. Must be called before anything secret is read.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// From here on a crash of this process writes no core dump: not to a file, and not to a program that the system has
/// for it, which the limit alone would not keep away. Other processes of the same user can't read its memory and its
/// environment either, unless they are privileged.
///
/// # Errors
/// The system refuses. A filter of system calls might; then it is better not to read a password at all.
pub fn keep_private() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn nothing_is_dumped_and_nobody_else_reads_it() {
        keep_private().unwrap();
        assert_eq!(getrlimit(Resource::Core), Rlimit { current: Some(0), maximum: Some(0) });
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }
}
