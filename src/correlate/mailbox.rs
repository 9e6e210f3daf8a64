//! Batches of replies on their way to a shard: one push and at most one wake per batch.

/// The sending half; any thread, cheap to clone.
pub struct Sender<T>(std::marker::PhantomData<fn(T)>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(std::marker::PhantomData)
    }
}

/// The receiving half; owned by the shard.
pub struct Receiver<T>(std::marker::PhantomData<fn() -> T>);

/// A mailbox of at most `batches_max` undelivered batches.
#[must_use]
pub fn mailbox<T: Send>(batches_max: usize) -> (Sender<T>, Receiver<T>) {
    let _ = batches_max;
    todo!()
}

impl<T: Send> Sender<T> {
    /// Posts a batch and wakes the shard if it sleeps. Gives the batch back when the mailbox is full or the shard is
    /// gone.
    pub fn post(&self, batch: Vec<T>) -> Result<(), Vec<T>> {
        let _ = batch;
        todo!()
    }
}

impl<T: Send> Receiver<T> {
    /// The next batch, as soon as there is one; `None` once every sender is gone and the mailbox is empty.
    pub async fn recv(&mut self) -> Option<Vec<T>> {
        std::future::pending().await
    }
}
impl<T: Send> Receiver<T> {
    /// stub
    pub fn try_recv(&mut self) -> Option<Vec<T>> {
        todo!()
    }
}
