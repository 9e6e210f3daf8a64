//! How many tasks a round takes: few with a slow handler, many with a fast one.

use std::time::Duration;

/// Most tasks of one round.
pub const ROUND_TASKS_MAX: usize = 1_024;
/// A round ends after this, however many of its tasks are left: between rounds acknowledgements are taken, the group is
/// told that this member lives, and a partition that was lost is given up. A single task may take longer.
pub const ROUND_TIME_MAX: Duration = Duration::from_millis(100);
/// Of the first round, when nothing is known about the handler.
const FIRST_ROUND_TASKS: usize = 16;

/// Follows what the handler needs, so that a round seldom ends before its tasks do: those that are left have to be read
/// again from the broker.
#[derive(Debug)]
pub struct Pace {
    tasks: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self { tasks: FIRST_ROUND_TASKS }
    }
}

impl Pace {
    /// Most tasks of the next round.
    pub const fn tasks(&self) -> usize {
        self.tasks
    }

    /// The last round did `done` tasks in `took`.
    pub fn learn(&mut self, done: usize, took: Duration) {
        if took >= ROUND_TIME_MAX {
            self.tasks = (done / 2).clamp(1, ROUND_TASKS_MAX);
        } else if done >= self.tasks && took < ROUND_TIME_MAX / 2 {
            self.tasks = (self.tasks * 2).min(ROUND_TASKS_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes that a handler leads to that needs `task` for each.
    fn settled(pace: &mut Pace, task: Duration) -> usize {
        for _ in 0..20 {
            let (mut done, mut took) = (0, Duration::ZERO);
            while done < pace.tasks() && took < ROUND_TIME_MAX {
                took += task;
                done += 1;
            }
            pace.learn(done, took);
        }
        pace.tasks()
    }

    #[test]
    fn rounds_fit_the_handler() {
        let mut pace = Pace::default();
        assert_eq!(settled(&mut pace, Duration::from_micros(2)), ROUND_TASKS_MAX);
        assert_eq!(settled(&mut pace, Duration::from_secs(1)), 1);
        assert_eq!(settled(&mut pace, Duration::from_millis(10)), 8);
        assert_eq!(settled(&mut pace, Duration::from_micros(2)), ROUND_TASKS_MAX);
    }

    #[test]
    fn a_round_that_was_not_full_says_little() {
        let mut pace = Pace::default();
        pace.learn(1, Duration::from_micros(2));
        assert_eq!(pace.tasks(), FIRST_ROUND_TASKS);
    }
}
