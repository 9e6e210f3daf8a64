//! Which tasks are done, in what order: an offset is stored only after every reply up to it was acknowledged.

use std::collections::VecDeque;

/// What travels with a reply as its opaque and comes back in the report.
///
/// ```text
/// 16 bits generation of the slot | 16 bits slot | 32 bits number in the slot
/// ```
pub type Ticket = usize;

const _: () = assert!(usize::BITS == 64, "a ticket needs 64 bits");

/// Tasks under way, by partition.
#[derive(Debug, Default)]
pub struct Tracker {
    slots: Vec<Slot>,
    under_way: usize,
}

#[derive(Debug)]
struct Slot {
    partition: i32,
    /// Grows whenever the slot starts anew, so that reports from before are told apart.
    generation: u16,
    /// Number of the first entry.
    first: u32,
    entries: VecDeque<Entry>,
    /// The offset to go on from, once it has moved.
    next: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: i64,
    done: bool,
}

impl Tracker {
    /// A task was taken up.
    pub fn begin(&mut self, partition: i32, offset: i64) -> Ticket {
        let index = self.slot(partition);
        let slot = &mut self.slots[index];
        let number = slot.first.wrapping_add(u32::try_from(slot.entries.len()).unwrap_or(u32::MAX));
        slot.entries.push_back(Entry { offset, done: false });
        self.under_way += 1;
        usize::from(slot.generation) << 48 | (index & 0xffff) << 32 | number as usize
    }

    /// Its reply was acknowledged, or none is due.
    pub fn done(&mut self, ticket: Ticket) {
        let Some((slot, at)) = self.find(ticket) else { return };
        slot.entries[at].done = true;
        let mut ended = 0;
        while let Some(entry) = slot.entries.front().filter(|entry| entry.done) {
            slot.next = Some(entry.offset + 1);
            slot.first = slot.first.wrapping_add(1);
            slot.entries.pop_front();
            ended += 1;
        }
        self.under_way -= ended;
    }

    /// Its reply was lost: the partition has to be read again from the offset returned. All its other tasks under way
    /// are forgotten, because they will come again too.
    pub fn lost(&mut self, ticket: Ticket) -> Option<(i32, i64)> {
        let (slot, _) = self.find(ticket)?;
        let again = (slot.partition, slot.entries.front()?.offset);
        let forgotten = slot.restart();
        self.under_way -= forgotten;
        Some(again)
    }

    /// Appends `(partition, offset to go on from)` of the partitions that moved.
    pub fn take_progress(&mut self, progress: &mut Vec<(i32, i64)>) {
        progress.extend(self.slots.iter_mut().filter_map(|slot| Some((slot.partition, slot.next.take()?))));
    }

    /// The partitions are gone: reports that still come mean nothing.
    pub fn forget_all(&mut self) {
        for slot in &mut self.slots {
            slot.restart();
            slot.next = None;
        }
        self.under_way = 0;
    }

    /// Tasks without an acknowledged reply, and those behind them.
    pub const fn under_way(&self) -> usize {
        self.under_way
    }

    fn slot(&mut self, partition: i32) -> usize {
        if let Some(index) = self.slots.iter().position(|slot| slot.partition == partition) {
            return index;
        }
        self.slots.push(Slot { partition, generation: 0, first: 0, entries: VecDeque::new(), next: None });
        self.slots.len() - 1
    }

    fn find(&mut self, ticket: Ticket) -> Option<(&mut Slot, usize)> {
        let slot = self.slots.get_mut(ticket >> 32 & 0xffff)?;
        let number = u32::try_from(ticket & 0xffff_ffff).ok()?;
        let at = number.wrapping_sub(slot.first) as usize;
        (usize::from(slot.generation) == ticket >> 48 && at < slot.entries.len()).then_some((slot, at))
    }
}

impl Slot {
    fn restart(&mut self) -> usize {
        let forgotten = self.entries.len();
        self.entries.clear();
        self.generation = self.generation.wrapping_add(1);
        self.first = 0;
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(tracker: &mut Tracker) -> Vec<(i32, i64)> {
        let mut list = Vec::new();
        tracker.take_progress(&mut list);
        list
    }

    #[test]
    fn an_offset_waits_for_all_before_it() {
        let mut tracker = Tracker::default();
        let tickets: Vec<_> = [10, 11, 15].map(|offset| tracker.begin(3, offset)).into();
        tracker.done(tickets[2]);
        tracker.done(tickets[1]);
        assert_eq!((progress(&mut tracker), tracker.under_way()), (vec![], 3));
        tracker.done(tickets[0]);
        assert_eq!((progress(&mut tracker), tracker.under_way()), (vec![(3, 16)], 0));
        assert_eq!(progress(&mut tracker), []);
        tracker.done(tickets[0]);
        assert_eq!(tracker.under_way(), 0, "a second report changes nothing");
    }

    #[test]
    fn a_lost_reply_restarts_its_partition_only() {
        let mut tracker = Tracker::default();
        let (a, b, other) = (tracker.begin(0, 5), tracker.begin(0, 6), tracker.begin(1, 7));
        assert_eq!(tracker.lost(b), Some((0, 5)));
        tracker.done(a);
        assert_eq!(tracker.lost(a), None, "from before the restart");
        tracker.done(other);
        assert_eq!((progress(&mut tracker), tracker.under_way()), (vec![(1, 8)], 0));
        let again = tracker.begin(0, 5);
        tracker.done(again);
        assert_eq!(progress(&mut tracker), [(0, 6)]);
    }

    #[test]
    fn reports_after_the_partitions_went_mean_nothing() {
        let mut tracker = Tracker::default();
        let old = tracker.begin(0, 5);
        tracker.forget_all();
        let new = tracker.begin(0, 5);
        tracker.done(old);
        assert_eq!(progress(&mut tracker), []);
        tracker.done(new);
        assert_eq!(progress(&mut tracker), [(0, 6)]);
    }
}
