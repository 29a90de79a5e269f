//! Quantised formats against the reference of llama.cpp's own Python package; `tests/golden/make_quantised.py` wrote what it gives.

use std::path::Path;

use safetensors::SafeTensors;

use crate::model::checkpoint::quantised::Quantisation::{
    Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0,
};

/// Blocks of one format, and the numbers that they stand for.
pub(super) struct Golden {
    pub(super) blocks: Vec<u8>,
    pub(super) values: Vec<f32>,
    block_bytes: usize,
    block_elements: usize,
}

impl Golden {
    pub(super) fn read(format: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/quantised.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |part: &str| file.tensor(&format!("{format}.{part}")).unwrap();
        let (blocks, values) = (tensor("blocks"), tensor("values"));
        let words = values.data().chunks_exact(4);
        Self {
            blocks: blocks.data().to_vec(),
            values: words
                .map(|word| f32::from_le_bytes(word.try_into().unwrap()))
                .collect(),
            block_bytes: blocks.shape()[1],
            block_elements: values.shape()[1],
        }
    }
}

/// Signs of zeros count.
#[test]
fn every_bit_is_that_of_the_reference() {
    for (name, format) in [
        ("Q4_0", Q4_0),
        ("Q4_1", Q4_1),
        ("Q5_0", Q5_0),
        ("Q5_1", Q5_1),
        ("Q8_0", Q8_0),
        ("Q2_K", Q2K),
        ("Q3_K", Q3K),
        ("Q4_K", Q4K),
        ("Q5_K", Q5K),
        ("Q6_K", Q6K),
    ] {
        let golden = Golden::read(name);
        assert_eq!(format.block_elements(), golden.block_elements, "{name}");
        assert_eq!(format.block_bytes(), golden.block_bytes, "{name}");
        let mut values = vec![0.0; golden.values.len()];
        format.decode(&golden.blocks, &mut values);
        let mut pairs = values.iter().zip(&golden.values).enumerate();
        let differ = pairs.find(|(_, (found, expected))| found.to_bits() != expected.to_bits());
        assert_eq!(differ, None, "{name}");
    }
}
