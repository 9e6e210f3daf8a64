//! Batches of replies on their way to a shard: one push and at most one wake per batch.
//!
//! The queue is crossbeam's, the waker cell `atomic-waker`'s. What is ours, and what `tests/loom` checks, is the order
//! in which they are used: a sender pushes, then wakes; the receiver registers its waker, then looks again. Whichever
//! comes first, one of the two sees the other, so no batch lies in the queue while the shard sleeps.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::sync::{Arc, ArrayQueue, AtomicBool, AtomicUsize, AtomicWaker, Ordering};

/// The sending half; any thread, cheap to clone.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// The receiving half; owned by the shard. Not `Clone`: there is one waker to wake.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    /// Batches that were posted and not received.
    batches: ArrayQueue<Vec<T>>,
    /// How many of them there may be.
    batches_max: usize,
    /// The shard's task, while it sleeps.
    waker: AtomicWaker,
    /// Senders alive; at zero the receiver is told that nothing more will come.
    senders: AtomicUsize,
    /// Set when the receiver is dropped, so that senders stop filling a queue that nobody empties.
    receiver_gone: AtomicBool,
}

/// A mailbox of at most `batches_max` undelivered batches.
///
/// # Panics
/// When `batches_max` is zero.
#[must_use]
pub fn mailbox<T: Send>(batches_max: usize) -> (Sender<T>, Receiver<T>) {
    assert!(batches_max > 0, "a mailbox holds at least one batch");
    let shared = Arc::new(Shared {
        batches: ArrayQueue::new(batches_max),
        batches_max,
        waker: AtomicWaker::new(),
        senders: AtomicUsize::new(1),
        receiver_gone: AtomicBool::new(false),
    });
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared })
}

impl<T: Send> Sender<T> {
    /// Posts a batch and wakes the shard if it sleeps. Gives the batch back when the mailbox is full or the shard is
    /// gone. A batch posted while the shard goes away shares the fate of those not yet received: it is dropped.
    pub fn post(&self, batch: Vec<T>) -> Result<(), Vec<T>> {
        if batch.is_empty() {
            return Ok(()); // not worth a wake
        }
        if self.shared.receiver_gone.load(Ordering::Acquire) {
            return Err(batch);
        }
        self.shared.batches.push(batch)?;
        self.shared.waker.wake();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        // Relaxed: the clone is made from a sender that is counted, so the count cannot reach zero meanwhile.
        self.shared.senders.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        // Release: whoever sees zero also sees every batch this sender posted.
        if self.shared.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.waker.wake();
        }
    }
}

impl<T: Send> Receiver<T> {
    /// The next batch, as soon as there is one; `None` once every sender is gone and the mailbox is empty.
    pub async fn recv(&mut self) -> Option<Vec<T>> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The next batch if there is one now: lets the shard empty the mailbox on one wake.
    pub fn try_recv(&mut self) -> Option<Vec<T>> {
        self.shared.batches.pop()
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<T>>> {
        if let Some(batch) = self.try_recv() {
            return Poll::Ready(Some(batch));
        }
        self.shared.waker.register(cx.waker());
        // From here on a post or the last sender's end wakes us; what came before is found by looking again. The count
        // is read first: after the last sender has gone, the queue cannot fill any more.
        let ended = self.shared.senders.load(Ordering::Acquire) == 0;
        match self.try_recv() {
            Some(batch) => Poll::Ready(Some(batch)),
            None if ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receiver_gone.store(true, Ordering::Release);
        // Senders may live on for long; undelivered batches should not. Bounded, since a sender may still be posting.
        for _ in 0..self.shared.batches_max {
            if self.shared.batches.pop().is_none() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    //! The interleavings are checked in `tests/loom`; here are the plain rules, and real threads on the real queue.

    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counted() -> (Arc<Wakes>, Waker) {
        let wakes = Arc::new(Wakes::default());
        (Arc::clone(&wakes), Waker::from(wakes))
    }

    fn poll_once<T: Send>(receiver: &mut Receiver<T>, waker: &Waker) -> Poll<Option<Vec<T>>> {
        pin!(receiver.recv()).as_mut().poll(&mut Context::from_waker(waker))
    }

    #[test]
    fn a_sleeping_receiver_is_woken_once_for_many_batches() {
        let (sender, mut receiver) = mailbox(4);
        let (count, waker) = counted();
        sender.post(vec![1]).unwrap();
        assert_eq!(poll_once(&mut receiver, &waker), Poll::Ready(Some(vec![1])));
        assert_eq!(count.0.load(Ordering::Relaxed), 0, "it did not sleep");

        assert_eq!(poll_once(&mut receiver, &waker), Poll::Pending);
        sender.post(Vec::new()).unwrap();
        assert_eq!(count.0.load(Ordering::Relaxed), 0, "an empty batch is nothing");
        sender.post(vec![2]).unwrap();
        sender.post(vec![3, 4]).unwrap();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(poll_once(&mut receiver, &waker), Poll::Ready(Some(vec![2])));
        assert_eq!(receiver.try_recv(), Some(vec![3, 4]));
        assert_eq!(receiver.try_recv(), None);
    }

    #[test]
    fn a_full_mailbox_gives_the_batch_back() {
        let (sender, mut receiver) = mailbox(1);
        sender.post(vec![1]).unwrap();
        assert_eq!(sender.post(vec![2, 3]), Err(vec![2, 3]));
        assert_eq!(receiver.try_recv(), Some(vec![1]));
        sender.post(vec![2, 3]).unwrap();
    }

    #[test]
    fn ends_after_the_last_sender_and_the_last_batch() {
        let (sender, mut receiver) = mailbox(2);
        let (count, waker) = counted();
        let second = sender.clone();
        drop(sender);
        assert_eq!(poll_once(&mut receiver, &waker), Poll::Pending);
        second.post(vec![1]).unwrap();
        assert_eq!(poll_once(&mut receiver, &waker), Poll::Ready(Some(vec![1])));
        assert_eq!(poll_once(&mut receiver, &waker), Poll::Pending);
        drop(second);
        assert_eq!(count.0.load(Ordering::Relaxed), 2, "one for the batch, one for the end");
        assert_eq!(poll_once(&mut receiver, &waker), Poll::Ready(None));
    }

    #[test]
    fn without_a_receiver_batches_come_back_and_old_ones_are_dropped() {
        let (sender, receiver) = mailbox(4);
        let reply = Arc::new(());
        sender.post(vec![Arc::clone(&reply)]).unwrap();
        drop(receiver);
        assert_eq!(Arc::strong_count(&reply), 1);
        assert!(sender.post(vec![Arc::clone(&reply)]).is_err());
    }

    #[test]
    fn threads_lose_nothing_and_keep_each_senders_order() {
        const SENDERS: usize = 3;
        const BATCHES: usize = if cfg!(miri) { 50 } else { 2_000 };
        let (sender, mut receiver) = mailbox(8);
        let threads: Vec<_> = (0..SENDERS)
            .map(|me| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    for n in 0..BATCHES {
                        let mut batch = vec![(me, n)];
                        while let Err(back) = sender.post(batch) {
                            batch = back; // full: the receiver runs, so this ends
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        drop(sender);

        let mut next = [0; SENDERS];
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            while let Some(batch) = receiver.recv().await {
                for (from, n) in batch {
                    assert_eq!(n, next[from]);
                    next[from] += 1;
                }
            }
        });
        assert_eq!(next, [BATCHES; SENDERS]);
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
