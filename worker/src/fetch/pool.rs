//! Buffers for responses, used again and again, with a bound on all of them together.
//!
//! Responsible for the memory that a reader may fill before its records are read: whoever wants to receive waits until
//! there is room. Must never let buffers in use and those kept for reuse together exceed the bound.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Buffers are made this much larger than needed at least, so that the next response fits too.
const GRANULE_BYTES: usize = 256 << 10;

/// All buffers of one reader.
#[derive(Debug)]
pub struct Pool {
    bytes_max: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<Vec<u8>>,
    free_bytes: usize,
    taken_bytes: usize,
    is_closed: bool,
}

impl Pool {
    /// A pool of at most `bytes_max`; a single response that is larger is let in when it is the only one.
    pub fn new(bytes_max: usize) -> Arc<Pool> {
        Arc::new(Pool { bytes_max, state: Mutex::default(), changed: Condvar::new() })
    }

    /// A buffer of `len` bytes with any content; waits for room. `None` once the pool is closed.
    pub fn take(self: &Arc<Pool>, len: usize) -> Option<Buffer> {
        let mut state = self.lock();
        while !state.is_closed && state.taken_bytes > 0 && state.taken_bytes + len > self.bytes_max {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.is_closed {
            return None;
        }
        let mut bytes = state.free.pop().unwrap_or_default();
        state.free_bytes -= bytes.len();
        // Its length never shrinks, so that nothing is filled again for the next response.
        if bytes.len() < len {
            bytes = vec![0; len.next_multiple_of(GRANULE_BYTES)];
        }
        state.taken_bytes += bytes.len();
        // What lies about beside what is in use must not make the bound a lie.
        while state.free_bytes > 0 && state.free_bytes + state.taken_bytes > self.bytes_max {
            state.free_bytes -= state.free.swap_remove(0).len();
        }
        drop(state);
        Some(Buffer { bytes, len, pool: Arc::clone(self) })
    }

    /// Ends all waiting, now and later.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    fn give_back(&self, bytes: Vec<u8>) {
        let mut state = self.lock();
        state.taken_bytes -= bytes.len();
        if state.free_bytes + state.taken_bytes + bytes.len() <= self.bytes_max {
            state.free_bytes += bytes.len();
            state.free.push(bytes);
        }
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer that goes back to its pool when nobody refers to it any more.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    pool: Arc<Pool>,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again() {
        let pool = Pool::new(4 << 20);
        let first = pool.take(1_000).unwrap();
        let place = first.as_ref().as_ptr();
        drop(first);
        let second = pool.take(2_000).unwrap();
        assert_eq!(second.as_ref().as_ptr(), place);
        assert_eq!(second.as_ref().len(), 2_000);
    }

    #[test]
    fn whoever_finds_no_room_waits_for_it() {
        let pool = Pool::new(1 << 20);
        let held = pool.take(1 << 20).unwrap();
        let waiter = std::thread::spawn({
            let pool = Arc::clone(&pool);
            move || pool.take(1 << 20).map(|buffer| buffer.as_ref().len())
        });
        assert_eq!(pool.lock().taken_bytes, 1 << 20);
        drop(held);
        assert_eq!(waiter.join().unwrap(), Some(1 << 20));
        assert_eq!(pool.lock().taken_bytes, 0);
    }

    #[test]
    fn one_that_is_too_large_is_let_in_alone() {
        let pool = Pool::new(1 << 20);
        assert_eq!(pool.take(3 << 20).unwrap().as_ref().len(), 3 << 20);
        // And not kept.
        assert_eq!(pool.lock().free_bytes, 0);
    }

    #[test]
    fn closing_ends_the_waiting() {
        let pool = Pool::new(1 << 20);
        let held = pool.take(1 << 20).unwrap();
        let waiter = std::thread::spawn({
            let pool = Arc::clone(&pool);
            move || pool.take(1).is_none()
        });
        pool.close();
        assert!(waiter.join().unwrap());
        drop(held);
    }
}
