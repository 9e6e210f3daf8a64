//! The mailbox under every interleaving that `check` allows. Loom reports a lost wake-up as a deadlock: everyone sleeps, nobody will wake.

use loom::future::block_on;
use loom::thread;
use thousandx_loom::check;
use thousandx_loom::correlate::mailbox::{Receiver, mailbox};

fn receive_to_the_end(mut receiver: Receiver<u32>) -> Vec<u32> {
    block_on(async move {
        let mut replies = Vec::new();
        while let Some(batch) = receiver.recv().await {
            replies.extend(batch);
        }
        replies.sort_unstable();
        replies
    })
}

#[test]
fn no_wake_up_is_lost_and_the_end_comes_after_the_last_batch() {
    check(|| {
        let (sender, receiver) = mailbox(2);
        let second = sender.clone();
        let threads = [(sender, 1), (second, 2)]
            .map(|(sender, reply)| thread::spawn(move || sender.post(vec![reply]).expect("there is room for both")));
        assert_eq!(receive_to_the_end(receiver), [1, 2]);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_sender_that_posts_twice_is_heard_twice() {
    check(|| {
        let (sender, receiver) = mailbox(2);
        let thread = thread::spawn(move || {
            sender.post(vec![1]).unwrap();
            sender.post(vec![2, 3]).unwrap();
        });
        assert_eq!(receive_to_the_end(receiver), [1, 2, 3]);
        thread.join().unwrap();
    });
}

#[test]
fn a_sender_that_ends_without_a_word_ends_the_receiver() {
    check(|| {
        let (sender, receiver) = mailbox::<u32>(1);
        let second = sender.clone();
        let threads = [sender, second].map(|sender| thread::spawn(move || drop(sender)));
        assert!(receive_to_the_end(receiver).is_empty());
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_batch_is_delivered_or_given_back_never_both_nor_neither() {
    check(|| {
        let (sender, receiver) = mailbox(1);
        let second = sender.clone();
        let threads = [(sender, 1), (second, 2)].map(|(sender, reply)| thread::spawn(move || sender.post(vec![reply])));
        let mut replies = receive_to_the_end(receiver);
        for thread in threads {
            replies.extend(thread.join().unwrap().err().into_iter().flatten());
        }
        replies.sort_unstable();
        assert_eq!(replies, [1, 2]);
    });
}

#[test]
fn a_receiver_that_goes_away_strands_nobody() {
    check(|| {
        let (sender, receiver) = mailbox(1);
        let thread = thread::spawn(move || {
            let _may_be_taken = sender.post(vec![1]);
            sender
        });
        drop(receiver);
        let sender = thread.join().unwrap();
        assert_eq!(sender.post(vec![2]), Err(vec![2]), "what happens after the end is given back");
    });
}
