//! The quantised number formats of GGUF files: blocks of whole numbers of few bits, with a scale for each block or for groups within it.
//!
//! Every format but `Q8_0` gives `value = scale × code − minimum`, in float32 and in this order. Layouts and names are those of ggml
//! (`ggml-common.h`, `dequantize_row_*` in `ggml-quants.c`); the tests hold every bit against llama.cpp's reference in Python.

use half::f16;

use Quantisation::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};

/// How the numbers of a tensor are quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantisation {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

impl Quantisation {
    /// Numbers in a block.
    pub(super) fn block_elements(self) -> usize {
        match self {
            Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 => 32,
            Q2K | Q3K | Q4K | Q5K | Q6K => 256,
        }
    }

    pub(super) fn block_bytes(self) -> usize {
        match self {
            Q4_0 => 2 + 16,
            Q4_1 => 4 + 16,
            Q5_0 => 2 + 4 + 16,
            Q5_1 => 4 + 4 + 16,
            Q8_0 => 2 + 32,
            Q2K => 16 + 64 + 4,
            Q3K => 32 + 64 + 12 + 2,
            Q4K => 4 + 12 + 128,
            Q5K => 4 + 12 + 32 + 128,
            Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Reads whole blocks into as many numbers as they hold.
    pub(super) fn decode(self, blocks: &[u8], values: &mut [f32]) {
        let blocks = blocks.chunks_exact(self.block_bytes());
        for (block, values) in blocks.zip(values.chunks_exact_mut(self.block_elements())) {
            match self {
                Q4_0 | Q4_1 | Q5_0 | Q5_1 => self.decode_pairs(block, values),
                Q8_0 => {
                    let codes = block[2..].iter().map(|&byte| byte as i8);
                    fill(values, number(block), 0.0, codes);
                }
                Q2K => decode_q2k(block, values),
                Q3K => decode_q3k(block, values),
                Q4K | Q5K => self.decode_q4k_or_q5k(block, values),
                Q6K => decode_q6k(block, values),
            }
        }
    }

    /// Scale, perhaps the minimum, perhaps a fifth bit of every code, and four bits of each: of the first half in the low nibbles.
    fn decode_pairs(self, block: &[u8], values: &mut [f32]) {
        let (has_minimum, has_fifth_bit) =
            (matches!(self, Q4_1 | Q5_1), matches!(self, Q5_0 | Q5_1));
        let scale = number(block);
        let (minimum, rest) = match has_minimum {
            true => (-number(&block[2..]), &block[4..]),
            false => (0.0, &block[2..]),
        };
        let (fifth_bits, nibbles) = match has_fifth_bit {
            true => (
                u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]),
                &rest[4..],
            ),
            false => (0, rest),
        };
        let middle = match self {
            Q4_0 => 8,
            Q5_0 => 16,
            _ => 0,
        };
        for (half, values) in values.chunks_exact_mut(16).enumerate() {
            let codes = nibbles.iter().enumerate().map(|(i, byte)| {
                let fifth = (fifth_bits >> (16 * half + i) & 1) as i8;
                (byte >> (4 * half) & 15) as i8 + 16 * fifth - middle
            });
            fill(values, scale, minimum, codes);
        }
    }

    /// Eight groups of 32, pairs of which share bytes. A group has a scale and a minimum of six bits.
    fn decode_q4k_or_q5k(self, block: &[u8], values: &mut [f32]) {
        let (scale, minimum) = (number(block), number(&block[2..]));
        let (packed, rest) = block[4..].split_at(12);
        let (fifth_bits, nibbles) = match self {
            Q5K => rest.split_at(32),
            _ => (&[0; 32][..], rest),
        };
        for (group, values) in values.chunks_exact_mut(32).enumerate() {
            let (of_scale, of_minimum) = scale_and_minimum(packed, group);
            let bytes = nibbles[32 * (group / 2)..].iter().zip(fifth_bits);
            let codes = bytes.map(|(byte, fifth)| {
                (byte >> (4 * (group % 2)) & 15) as i8 + 16 * (fifth >> group & 1) as i8
            });
            fill(values, scale * of_scale, minimum * of_minimum, codes);
        }
    }
}

/// 16 groups of 16 with a scale and a minimum of four bits; codes of two bits, four to a byte.
fn decode_q2k(block: &[u8], values: &mut [f32]) {
    let (scales, rest) = block.split_at(16);
    let (codes, rest) = rest.split_at(64);
    let (scale, minimum) = (number(rest), number(&rest[2..]));
    for (group, values) in values.chunks_exact_mut(16).enumerate() {
        let (of_scale, of_minimum) = (f32::from(scales[group] & 15), f32::from(scales[group] >> 4));
        let codes = two_bits(codes, group).map(|code| code as i8);
        fill(values, scale * of_scale, minimum * of_minimum, codes);
    }
}

/// 16 groups of 16 with a scale of six bits; codes of two bits, and a third that makes them negative where it is not set.
fn decode_q3k(block: &[u8], values: &mut [f32]) {
    let (third_bits, rest) = block.split_at(32);
    let (codes, rest) = rest.split_at(64);
    let (packed, rest) = rest.split_at(12);
    let scale = number(rest);
    for (group, values) in values.chunks_exact_mut(16).enumerate() {
        let low = packed[group % 8] >> (4 * (group / 8)) & 15;
        let high = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
        let of_scale = f32::from(low | high << 4) - 32.0;
        let third = third_bits[16 * (group % 2)..].iter();
        let codes = two_bits(codes, group).zip(third).map(|(code, third)| {
            let is_set = third >> (group / 2) & 1;
            code as i8 - 4 * (1 - is_set as i8)
        });
        fill(values, scale * of_scale, 0.0, codes);
    }
}

/// 16 groups of 16 with a scale of eight bits; codes of four bits and two more.
fn decode_q6k(block: &[u8], values: &mut [f32]) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, rest) = rest.split_at(16);
    let scale = number(rest);
    for (group, values) in values.chunks_exact_mut(16).enumerate() {
        // Within a half of 128: four parts of 32, the first two in the low nibbles.
        let (half, part, start) = (group / 8, group % 8 / 2, 16 * (group % 2));
        let low = low[64 * half + 32 * (part % 2) + start..].iter();
        let high = high[32 * half + start..].iter();
        let codes = low.zip(high).map(|(low, high)| {
            let code = low >> (4 * (part / 2)) & 15 | (high >> (2 * part) & 3) << 4;
            code as i8 - 32
        });
        fill(values, scale * f32::from(scales[group] as i8), 0.0, codes);
    }
}

/// The codes of a group of 16: of each half of 128 numbers the first 32 in the lowest two bits of 32 bytes, and so on.
fn two_bits(codes: &[u8], group: usize) -> impl Iterator<Item = u8> {
    let (half, part, start) = (group / 8, group % 8 / 2, 16 * (group % 2));
    let bytes = codes[32 * half + start..].iter();
    bytes.map(move |byte| byte >> (2 * part) & 3)
}

/// Of eight groups whose scales and minima, of six bits each, lie in 12 bytes.
fn scale_and_minimum(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, minimum) = match group {
        0..4 => (packed[group] & 63, packed[group + 4] & 63),
        _ => (
            packed[group + 4] & 15 | packed[group - 4] >> 6 << 4,
            packed[group + 4] >> 4 | packed[group] >> 6 << 4,
        ),
    };
    (f32::from(scale), f32::from(minimum))
}

fn fill(values: &mut [f32], scale: f32, minimum: f32, codes: impl Iterator<Item = i8>) {
    for (value, code) in values.iter_mut().zip(codes) {
        *value = scale * f32::from(code) - minimum;
    }
}

/// The float16 that bytes begin with.
fn number(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}
