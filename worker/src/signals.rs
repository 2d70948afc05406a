//! SIGTERM and SIGINT, from the first moment of the process.
//!
//! Responsible for hearing them even where the kernel delivers only what is listened for: the first process of a
//! container. Must never end a process that has begun something: that is asked to finish instead, and ended only when it has
//! not by [`FINISH_TIMEOUT`].

use std::process;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::run::Error;

/// How long finishing may take: more than all its own waits together, less than a pod is given. librdkafka has waits without a
/// bound: a consumer whose brokers went away while it was closed was seen to wait for ever. What is cut off so is as if it had
/// been killed, which costs no result.
const FINISH_TIMEOUT: Duration = Duration::from_secs(50);

type Finish = Box<dyn FnOnce() + Send>;

/// What is done at the first signal.
pub struct Signals(Arc<Mutex<Option<Finish>>>);

impl Signals {
    /// Listens from now on. Until [`Signals::then`] is called, the first signal ends the process with `code`.
    ///
    /// # Errors
    /// The system gives no thread or no handler.
    pub fn listen(code: i32) -> Result<Signals, Error> {
        let failed = |error| Error::Runtime(format!("signals: {error}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        // Here and not in the thread: what is sent after this function has returned is heard.
        let (mut terminate, mut interrupt) = {
            let _guard = runtime.enter();
            let listen = |kind| signal(kind).map_err(failed);
            (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?)
        };
        let finish = Arc::new(Mutex::new(None::<Finish>));
        let asked = Arc::clone(&finish);
        let wait = move || {
            let name = runtime.block_on(async {
                tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                }
            });
            // Held to the end: whoever comes to begin something now waits here until the process is gone.
            let mut finish = asked.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(finish) = finish.take() else {
                tracing::info!("{name}: ending; nothing has to be finished");
                process::exit(code);
            };
            tracing::info!("{name}: finishing");
            finish();
            thread::sleep(FINISH_TIMEOUT);
            tracing::error!("not finished after {} s; ending all the same", FINISH_TIMEOUT.as_secs());
            process::exit(1);
        };
        thread::Builder::new().name("signals".to_owned()).spawn(wait).map_err(failed)?;
        Ok(Signals(finish))
    }

    /// Something begins: at the first signal `finish` is called, in another thread, and the process goes on.
    pub fn then(&self, finish: impl FnOnce() + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(finish));
    }
}
