//! The directory that holds everything this program's services write.
//!
//! Responsible for one temporary directory a program and for its removal, also when the program is killed: a small
//! shell process holds the other end of a pipe, and when the pipe closes it waits for the services to be gone and
//! removes the directory. Must never remove anything but what it created.
//!
//! `CRASHMONITOR_KEEP=1` keeps the directories (and says where they are), to look at logs after a failure.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs};

/// Waits until its input closes and the services are gone (bounded: 10 s), then removes the directory.
const JANITOR: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
tries=0
for pid in "$1"/pids/*; do
    while kill -0 "${pid##*/}" 2>/dev/null && [ $tries -lt 200 ]; do
        tries=$((tries + 1))
        sleep 0.05
    done
done
rm -rf "$1"
"#;

struct Home {
    root: PathBuf,
    /// Its input is never written to; the janitor sees it close.
    _janitor: Option<Child>,
}

fn home() -> &'static Home {
    static HOME: OnceLock<Home> = OnceLock::new();
    HOME.get_or_init(|| {
        let root = tempfile::Builder::new()
            .prefix("crashmonitor-")
            .tempdir()
            .unwrap_or_else(|e| panic!("creating a directory in {}: {e}", env::temp_dir().display()))
            .keep();
        fs::create_dir(root.join("pids")).expect("a directory that was just created takes another");
        if keep() {
            eprintln!("CRASHMONITOR_KEEP: the services' files stay in {}", root.display());
            return Home { root, _janitor: None };
        }
        let janitor = start_janitor(&root);
        Home { root, _janitor: Some(janitor) }
    })
}

fn keep() -> bool {
    env::var_os("CRASHMONITOR_KEEP").is_some_and(|v| v == "1")
}

fn start_janitor(root: &Path) -> Child {
    Command::new("sh")
        .args(["-c", JANITOR, "crashmonitor-janitor"])
        .arg(root)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A group of its own: Ctrl-C on the terminal ends us, not the janitor.
        .process_group(0)
        .spawn()
        .unwrap_or_else(|e| panic!("starting sh: {e}"))
}

/// Where pid files lie: one file a running process, its name the pid.
pub(crate) fn pids() -> PathBuf {
    home().root.join("pids")
}

/// A directory of one service; removed when dropped, or else when the program ends.
#[derive(Debug)]
pub struct Dir(PathBuf);

impl Dir {
    /// A new directory; its name starts with `name`.
    pub fn new(name: &str) -> Dir {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let path = home().root.join(format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&path).unwrap_or_else(|e| panic!("creating {}: {e}", path.display()));
        Dir(path)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into it, and gives its path.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, contents).unwrap_or_else(|e| panic!("writing {}: {e}", path.display()));
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if !keep() {
            // What cannot be removed now is the janitor's.
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
