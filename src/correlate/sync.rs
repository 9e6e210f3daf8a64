//! What the mailbox is built from: the real parts, or under `cfg(loom)` their models, so that `tests/loom` checks the
//! very same protocol code. The models stand in for crossbeam's queue and for `atomic-waker`, which are not ours to check.

#[cfg(not(loom))]
pub(super) use self::real::*;

#[cfg(loom)]
pub(super) use self::model::*;

#[cfg(not(loom))]
mod real {
    pub(in crate::correlate) use std::sync::Arc;
    pub(in crate::correlate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    pub(in crate::correlate) use atomic_waker::AtomicWaker;
    pub(in crate::correlate) use crossbeam::queue::ArrayQueue;
}

#[cfg(loom)]
mod model {
    use std::collections::VecDeque;
    use std::task::Waker;

    pub(in crate::correlate) use loom::sync::Arc;
    pub(in crate::correlate) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// A bounded queue behind a modelled mutex.
    pub(in crate::correlate) struct ArrayQueue<T> {
        items: loom::sync::Mutex<VecDeque<T>>,
        capacity: usize,
    }

    impl<T> ArrayQueue<T> {
        pub(in crate::correlate) fn new(capacity: usize) -> Self {
            Self { items: loom::sync::Mutex::new(VecDeque::new()), capacity }
        }

        pub(in crate::correlate) fn push(&self, item: T) -> Result<(), T> {
            let mut items = self.items.lock().expect("no model panics while it holds the lock");
            if items.len() == self.capacity {
                return Err(item);
            }
            items.push_back(item);
            Ok(())
        }

        pub(in crate::correlate) fn pop(&self) -> Option<T> {
            self.items.lock().expect("no model panics while it holds the lock").pop_front()
        }
    }

    /// Loom's own waker cell under the interface of `atomic-waker`.
    #[derive(Default)]
    pub(in crate::correlate) struct AtomicWaker(loom::future::AtomicWaker);

    impl AtomicWaker {
        pub(in crate::correlate) fn new() -> Self {
            Self::default()
        }

        pub(in crate::correlate) fn register(&self, waker: &Waker) {
            self.0.register_by_ref(waker);
        }

        pub(in crate::correlate) fn wake(&self) {
            self.0.wake();
        }
    }
}
