//! Inputs made of seeds: the same for the same start on every machine.

use serde_json::{Map, Value as Json};

/// A generator that gives the same numbers everywhere (splitmix64).
pub struct Random(u64);

impl Random {
    /// That of one case of a series.
    pub fn of(start: u64, case: u64) -> Self {
        let mut first = Random(start);
        Random(first.next() ^ case.wrapping_mul(0xd134_2543_de82_ef95))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is at least 1.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of several, of which there is at least one.
    pub fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Numbers at which lengths, counts and offsets go wrong.
pub const NUMBERS: [u64; 24] = [
    0,
    1,
    2,
    3,
    7,
    31,
    32,
    127,
    128,
    255,
    256,
    0x7fff,
    0xffff,
    0x0001_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 32,
    1 << 40,
    1 << 61,
    1 << 62,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// The same as text: what else may be written where a number is expected.
const NUMBER_TEXTS: [&str; 22] = [
    "0",
    "-1",
    "1",
    "2",
    "-0",
    "0.5",
    "1e308",
    "1e999",
    "-1e999",
    "1e-320",
    "NaN",
    "4294967295",
    "4294967296",
    "1000000000",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "null",
    "[]",
    "\"\"",
];

/// A seed changed in a few places.
pub fn changed(
    random: &mut Random,
    seed: &[u8],
    others: &[&[u8]],
    words: &[&str],
    most_bytes: usize,
) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        change(random, &mut bytes, others, words);
        bytes.truncate(most_bytes);
    }
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, others: &[&[u8]], words: &[&str]) {
    match random.below(12) {
        0 => flip(random, bytes),
        1 => bytes.truncate(random.below(bytes.len() + 1)),
        2 | 3 => number(random, bytes),
        4 => drop(bytes.drain(span(random, bytes.len(), 64))),
        5 => repeat(random, bytes),
        6 | 7 if !words.is_empty() => insert(random, bytes, words),
        8 => splice(random, bytes, others),
        9 | 10 => number_text(random, bytes),
        _ => swap(random, bytes),
    }
}

/// A place of at most so many bytes.
fn span(random: &mut Random, length: usize, most: usize) -> std::ops::Range<usize> {
    let start = random.below(length + 1);
    start..(start + random.below(most)).min(length)
}

fn flip(random: &mut Random, bytes: &mut [u8]) {
    if !bytes.is_empty() {
        let at = random.below(bytes.len());
        bytes[at] = match random.once_in(2) {
            true => bytes[at] ^ (1 << random.below(8)),
            false => random.below(256) as u8,
        };
    }
}

fn number(random: &mut Random, bytes: &mut [u8]) {
    let width = *random.one(&[1, 2, 4, 8]);
    // Headers are where the numbers are.
    let reach = if random.once_in(2) {
        bytes.len().min(64)
    } else {
        bytes.len()
    };
    if reach >= width {
        let at = random.below(reach - width + 1);
        let number = random.one(&NUMBERS).to_le_bytes();
        bytes[at..at + width].copy_from_slice(&number[..width]);
    }
}

fn repeat(random: &mut Random, bytes: &mut Vec<u8>) {
    let span = span(random, bytes.len(), 48);
    let times = *random.one(&[1, 1, 2, 16, 300, 3000]);
    let copies = bytes[span.clone()].repeat(times);
    bytes.splice(span.end..span.end, copies);
}

fn insert(random: &mut Random, bytes: &mut Vec<u8>, words: &[&str]) {
    let word = random.one(words).as_bytes().to_vec();
    let span = match random.once_in(2) {
        true => span(random, bytes.len(), word.len() + 1),
        false => {
            let at = random.below(bytes.len() + 1);
            at..at
        }
    };
    bytes.splice(span, word);
}

fn splice(random: &mut Random, bytes: &mut Vec<u8>, others: &[&[u8]]) {
    let other = *random.one(others);
    bytes.truncate(random.below(bytes.len() + 1));
    bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
}

/// Puts an odd number in the place of one that is written in digits.
fn number_text(random: &mut Random, bytes: &mut Vec<u8>) {
    let starts: Vec<usize> = (0..bytes.len())
        .filter(|&at| bytes[at].is_ascii_digit() && (at == 0 || !bytes[at - 1].is_ascii_digit()))
        .take(4000)
        .collect();
    if starts.is_empty() {
        return flip(random, bytes);
    }
    let start = *random.one(&starts);
    let digits = bytes[start..].iter();
    let length = digits
        .take_while(|byte| byte.is_ascii_digit() || **byte == b'.')
        .count();
    let text = random.one(&NUMBER_TEXTS).bytes();
    bytes.splice(start..start + length, text);
}

fn swap(random: &mut Random, bytes: &mut Vec<u8>) {
    let from = span(random, bytes.len(), 64);
    let piece: Vec<u8> = bytes.drain(from).collect();
    let to = random.below(bytes.len() + 1);
    bytes.splice(to..to, piece);
}

/// A JSON text with one or a few of its values replaced, left out or doubled; none for anything but JSON.
pub fn changed_json(random: &mut Random, seed: &[u8], words: &[&str]) -> Option<Vec<u8>> {
    let mut root: Json = serde_json::from_slice(seed).ok()?;
    for _ in 0..=random.below(3) {
        let count = count(&root);
        let mut at = random.below(count);
        if let Some(value) = find(&mut root, &mut at) {
            change_json(random, value, words);
        }
    }
    serde_json::to_vec(&root).ok()
}

/// Number of values in a value, itself among them.
fn count(value: &Json) -> usize {
    1 + match value {
        Json::Array(values) => values.iter().map(count).sum::<usize>(),
        Json::Object(values) => values.values().map(count).sum(),
        _ => 0,
    }
}

/// The value of that number.
fn find<'a>(value: &'a mut Json, at: &mut usize) -> Option<&'a mut Json> {
    if *at == 0 {
        return Some(value);
    }
    *at -= 1;
    match value {
        Json::Array(values) => values.iter_mut().find_map(|value| find(value, at)),
        Json::Object(values) => values.values_mut().find_map(|value| find(value, at)),
        _ => None,
    }
}

fn change_json(random: &mut Random, value: &mut Json, words: &[&str]) {
    match value {
        Json::Object(values) if !values.is_empty() && random.once_in(2) => {
            let names: Vec<String> = values.keys().cloned().collect();
            let taken = values.remove(random.one(&names).as_str());
            if random.once_in(2)
                && let Some(taken) = taken
            {
                values.insert(random.one(&names).clone(), taken);
            }
        }
        Json::Array(values) if !values.is_empty() && random.once_in(2) => {
            let at = random.below(values.len());
            match random.below(3) {
                0 => drop(values.remove(at)),
                1 => values.push(values[at].clone()),
                _ => values.truncate(at),
            }
        }
        _ => *value = odd_json(random, words),
    }
}

fn odd_json(random: &mut Random, words: &[&str]) -> Json {
    match random.below(10) {
        0 => Json::Null,
        1 => Json::Bool(random.once_in(2)),
        2..=4 => Json::from(*random.one(&NUMBERS)),
        5 => Json::from(-(random.below(1 << 40) as i64)),
        6 => Json::from(*random.one(&[0.5, -1.5, 1e300, 1e-300, f64::MAX])),
        7 => Json::Array(vec![Json::Null; random.below(4)]),
        8 => Json::Object(Map::new()),
        _ => match words.is_empty() {
            true => Json::from(""),
            false => Json::from(*random.one(words)),
        },
    }
}
