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
    /// The offset to read again from. Until the consumer has gone back there, what it brings is not taken: its offsets
    /// lie beyond.
    rewind: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: i64,
    done: bool,
}

impl Tracker {
    /// A task is taken up; `None` while its partition has to be read again from an earlier offset: it will come again.
    pub fn begin(&mut self, partition: i32, offset: i64) -> Option<Ticket> {
        let index = self.slot(partition);
        let slot = &mut self.slots[index];
        if slot.rewind.is_some() {
            return None;
        }
        let number = slot.first.wrapping_add(u32::try_from(slot.entries.len()).unwrap_or(u32::MAX));
        slot.entries.push_back(Entry { offset, done: false });
        self.under_way += 1;
        Some(usize::from(slot.generation) << 48 | (index & 0xffff) << 32 | number as usize)
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

    /// Its reply was lost: the partition has to be read again from the offset returned ([`Tracker::rewinds`]). All its
    /// other tasks under way are forgotten, because they will come again too.
    pub fn lost(&mut self, ticket: Ticket) -> Option<(i32, i64)> {
        let (slot, _) = self.find(ticket)?;
        let again = (slot.partition, slot.entries.front()?.offset);
        let forgotten = slot.restart();
        slot.rewind_to(again.1);
        self.under_way -= forgotten;
        Some(again)
    }

    /// A task that was read is not taken up: its partition has to be read again from there. Those under way go on.
    pub fn give_back(&mut self, partition: i32, offset: i64) {
        let index = self.slot(partition);
        self.slots[index].rewind_to(offset);
    }

    /// `(partition, offset)` to go back to. Asked for again and again, until each is [`rewound`](Self::rewound).
    pub fn rewinds(&self) -> Vec<(i32, i64)> {
        self.slots.iter().filter_map(|slot| Some((slot.partition, slot.rewind?))).collect()
    }

    /// The consumer has gone back: what it brings now is taken.
    pub fn rewound(&mut self, partition: i32) {
        let index = self.slot(partition);
        self.slots[index].rewind = None;
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
            slot.rewind = None;
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
        let entries = VecDeque::new();
        self.slots.push(Slot { partition, generation: 0, first: 0, entries, next: None, rewind: None });
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

    fn rewind_to(&mut self, offset: i64) {
        self.rewind = Some(self.rewind.map_or(offset, |earlier| earlier.min(offset)));
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
        let tickets: Vec<_> = [10, 11, 15].map(|offset| tracker.begin(3, offset).unwrap()).into();
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
        let [a, b, other] =
            [(0, 5), (0, 6), (1, 7)].map(|(partition, offset)| tracker.begin(partition, offset).unwrap());
        assert_eq!(tracker.lost(b), Some((0, 5)));
        tracker.done(a);
        assert_eq!(tracker.lost(a), None, "from before the restart");
        tracker.done(other);
        assert_eq!((progress(&mut tracker), tracker.under_way()), (vec![(1, 8)], 0));
        tracker.rewound(0);
        let again = tracker.begin(0, 5).unwrap();
        tracker.done(again);
        assert_eq!(progress(&mut tracker), [(0, 6)]);
    }

    #[test]
    fn a_partition_stands_still_until_it_was_rewound() {
        let mut tracker = Tracker::default();
        let [first, lost, _] = [4, 5, 6].map(|offset| tracker.begin(0, offset).unwrap());
        tracker.done(first);
        assert_eq!(tracker.lost(lost), Some((0, 5)));
        assert_eq!(tracker.rewinds(), [(0, 5)]);
        // The consumer could not go back and brings what follows: to take it would be to commit beyond 5.
        assert_eq!(tracker.begin(0, 7), None);
        assert_eq!((progress(&mut tracker), tracker.rewinds()), (vec![(0, 5)], vec![(0, 5)]));
        let other = tracker.begin(1, 1).unwrap();
        tracker.done(other);
        assert_eq!(progress(&mut tracker), [(1, 2)], "other partitions go on");
        tracker.rewound(0);
        assert_eq!(tracker.rewinds(), []);
        for offset in 5..8 {
            let again = tracker.begin(0, offset).unwrap();
            tracker.done(again);
        }
        assert_eq!(progress(&mut tracker), [(0, 8)]);
    }

    #[test]
    fn tasks_given_back_come_again_and_those_under_way_go_on() {
        let mut tracker = Tracker::default();
        let (a, b) = (tracker.begin(0, 5).unwrap(), tracker.begin(0, 6).unwrap());
        for offset in [7, 8] {
            tracker.give_back(0, offset);
        }
        assert_eq!(tracker.rewinds(), [(0, 7)]);
        tracker.done(a);
        assert_eq!(tracker.lost(b), Some((0, 6)));
        assert_eq!((progress(&mut tracker), tracker.rewinds()), (vec![(0, 6)], vec![(0, 6)]), "the earlier of both");
        tracker.give_back(3, 1);
        tracker.forget_all();
        assert_eq!(tracker.rewinds(), [], "somebody else's now");
    }

    #[test]
    fn reports_after_the_partitions_went_mean_nothing() {
        let mut tracker = Tracker::default();
        let old = tracker.begin(0, 5).unwrap();
        tracker.forget_all();
        let new = tracker.begin(0, 5).unwrap();
        tracker.done(old);
        assert_eq!(progress(&mut tracker), []);
        tracker.done(new);
        assert_eq!(progress(&mut tracker), [(0, 6)]);
    }
}
