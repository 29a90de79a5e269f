#!/usr/bin/env python3
"""Writes `quantised.safetensors` beside this file: made-up blocks of GGUF's quantised formats, and the numbers that they stand for.

    pip install gguf==0.19.0 numpy==2.4.6 safetensors==0.8.0
    python tests/golden/make_quantised.py

    {format}.blocks    uint8 [block, byte]
    {format}.values    float32 [block, number], by `gguf.quants.dequantize`, the reference of llama.cpp's own package

The bytes are pseudo-random, those of the lowest and the highest codes and group scales more often than others. Of the float16 numbers the
first are the largest, the smallest and zeros; the others are pseudo-random and finite. The product of a scale, a group's scale and a code
fits into the 24 bits of a float32, so that no order of multiplication changes a bit; only adding or subtracting the minimum rounds.
"""
import hashlib
import pathlib

import numpy
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import save_file

# Where a block has its float16 numbers: the scale and, where there is one, the minimum.
FLOATS = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}
NUMBERS = 1024
EXTREME_BYTES = numpy.array([0x00, 0x80, 0xFF], numpy.uint8)
# Scales and minima: 65504 and −65504, −2⁻²⁴ and −0, −0 and 0.
EXTREME_FLOATS = numpy.array([(0x7BFF, 0xFBFF), (0x8001, 0x8000), (0x8000, 0x0000)], numpy.uint16)


def drawn(name, count):
    """Pseudo-random bytes, the same wherever they are drawn."""
    return numpy.frombuffer(hashlib.shake_256(name.encode()).digest(count), numpy.uint8)


def made(name, count, size):
    """Blocks whose float16 numbers are finite, those of at most half of them extreme."""
    plain = drawn(name, count * size).reshape(count, size)
    choices = drawn(f"{name}, extremes", count * size).reshape(count, size)
    blocks = numpy.where(choices < 64, EXTREME_BYTES[choices % 3], plain)
    extreme = EXTREME_FLOATS[:count // 2]
    for i, at in enumerate(FLOATS[name]):
        floats = plain[:, at:at + 2].copy().view("<u2")
        # All ones in the exponent would be an infinity or no number.
        floats[floats & 0x7C00 == 0x7C00] &= 0xBFFF
        floats[:len(extreme), 0] = extreme[:, i]
        blocks[:, at:at + 2] = floats.view(numpy.uint8)
    return blocks


tensors = {}
for name in FLOATS:
    kind = GGMLQuantizationType[name]
    numbers, size = GGML_QUANT_SIZES[kind]
    blocks = made(name, NUMBERS // numbers, size)
    values = dequantize(blocks, kind)
    assert numpy.isfinite(values).all(), name
    tensors |= {f"{name}.blocks": blocks, f"{name}.values": values}
save_file(tensors, pathlib.Path(__file__).parent / "quantised.safetensors")
