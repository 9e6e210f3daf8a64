//! Mutations for the driver: without coverage to follow, inputs stay close to the corpus and are cut, joined and
//! filled with the target's own words.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// Longest input, in bytes: what has lengths has them around far smaller numbers.
pub const BYTES_MAX: usize = 4096;
/// Most mutations of one input.
const STEPS_MAX: u32 = 6;
/// Bytes that parsers treat in a special way.
const SPECIAL: &[u8] = b"\0\t\n\r \"'#$%&,-.:;=@[\\]{}\x7f\x80\xc3\xff";
/// Longest run of one byte that is put in.
const RUN_MAX: usize = 300;

/// One input: a few mutations of one of `corpus`, which must not be empty. `words` are put in whole.
#[must_use]
pub fn mutated(corpus: &[Vec<u8>], words: &[&str], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = corpus.choose(random).cloned().unwrap_or_default();
    for _ in 0..random.random_range(1..=STEPS_MAX) {
        step(&mut bytes, corpus, words, random);
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

fn step(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&str], random: &mut StdRng) {
    let at = random.random_range(0..=bytes.len());
    match random.random_range(0..9) {
        0 => flip(bytes, at, random),
        1 => put(bytes, at, &[random.random()]),
        2 => put(bytes, at, &[*SPECIAL.choose(random).unwrap_or(&0)]),
        3 | 4 => put(bytes, at, words.choose(random).unwrap_or(&"").as_bytes()),
        5 => drop(bytes.drain(at..end(at, bytes.len(), random))),
        6 => {
            let part = bytes[at..end(at, bytes.len(), random)].to_vec();
            let to = random.random_range(0..=bytes.len());
            put(bytes, to, &part);
        }
        7 => {
            let other = corpus.choose(random).map_or(&[][..], Vec::as_slice);
            let from = random.random_range(0..=other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        _ => {
            let byte = bytes.get(at).copied().unwrap_or(b'a');
            put(bytes, at, &vec![byte; random.random_range(1..=RUN_MAX)]);
        }
    }
}

fn flip(bytes: &mut [u8], at: usize, random: &mut StdRng) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << random.random_range(0..8);
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, part: &[u8]) {
    if bytes.len() + part.len() <= BYTES_MAX {
        bytes.splice(at..at, part.iter().copied());
    }
}

/// Where a piece that begins at `at` ends: short ones are as likely as long ones.
fn end(at: usize, length: usize, random: &mut StdRng) -> usize {
    let left = length - at;
    let most = if random.random() { left } else { left.min(4) };
    at + random.random_range(0..=most)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn one_seed_gives_one_sequence_of_bounded_inputs() {
        let corpus = [b"a: b\n\n{}".to_vec(), Vec::new(), vec![b'x'; BYTES_MAX]];
        let sequence = |seed| {
            let mut random = StdRng::seed_from_u64(seed);
            (0..2_000).map(|_| mutated(&corpus, &["word"], &mut random)).collect::<Vec<_>>()
        };
        let inputs = sequence(1);
        assert!(inputs.iter().all(|input| input.len() <= BYTES_MAX));
        assert!(inputs.iter().any(|input| input.windows(4).any(|window| window == b"word")));
        assert_eq!(inputs, sequence(1));
        assert_ne!(inputs, sequence(2));
    }
}
