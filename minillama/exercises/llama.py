"""07, the whole Llama and its file."""

import json
import tempfile
from pathlib import Path

import numpy as np

from ..checkpoint import parse_header, read_tensor, to_bfloat16
from ..ops import softmax
from . import exercise, expect


@exercise
def perplexity_of(fn):
    rng = np.random.default_rng(0)
    for shift in (0, 1000):
        logits, ids = shift + 2 * rng.standard_normal((6, 11)), rng.integers(0, 11, 6)     # [T, vocab_size], [T]
        p = softmax(logits)
        came, same_row, back = p[np.arange(5), ids[1:]], p[np.arange(6), ids], p[np.arange(1, 6), ids[:-1]]
        with np.errstate(all="ignore"):
            got = fn(logits.copy(), ids.copy())
            hints = {"Row t speaks of token t + 1, not of token t.": np.exp(-np.log(same_row).mean()),
                     "Row t speaks of token t + 1, not of the one before it.": np.exp(-np.log(back).mean()),
                     "That is the loss; perplexity is its exponential.": -np.log(came).mean(),
                     "That is exp of the sum; of the mean is wanted, per predicted token.": 1 / came.prod(),
                     "The mean runs over the T − 1 tokens that are predicted, not over T.": np.exp(-np.log(came).sum() / 6),
                     "That is the mean of 1/p; take the mean of the losses first, then exp.": (1 / came).mean(),
                     "That is 1 over the mean of p; take the mean of −log p first, then exp.": 1 / came.mean(),
                     "Logits are not yet log p: subtract the log of the sum of their exp, row by row.": np.exp(-logits[np.arange(5), ids[1:]].mean()),
                     "The losses are in bits and exp wants nats: log, not log2.": np.exp(-np.log2(came).mean())}
        if shift and got is not None and not np.isfinite(got):
            raise AssertionError("Logits of 1000 overflow in exp: subtract each row's largest one first.")
        expect(got, np.exp(-np.log(came).mean()), hints)


@exercise
def round_to_bfloat16(fn):
    x = np.array([[0.1, -0.1, 1, 257, 259, -257, -259], [1.9999, 3.14159, 1e-40, 1e30, -65504, 0, 2**-130 * 257]], np.float32)
    bits, right = x.view(np.uint32), to_bfloat16(x)
    with np.errstate(over="ignore"):
        got, half_precision = fn(x.copy()), x.astype(np.float16).view(np.uint16)
    expect(got, right, {
        "That cuts the lower half off; the nearest one is wanted.": bits >> 16,
        "Ties went up: 257 lies midway between 256 and 258, and 256 has the last bit 0.": bits + 0x8000 >> 16,
        "Ties went down: 259 lies midway between 258 and 260, and 260 has the last bit 0.": bits + 0x7FFF >> 16,
        "Ties went to the one whose last bit is 1; it must be 0.": bits + 0x8000 - (bits >> 16 & 1) >> 16,
        "Everything with a lower half went up; only what is past the middle should.": bits + 0xFFFF >> 16,
        "These are the rounded numbers; their 16 bits are wanted.": (right.astype(np.uint32) << 16).view(np.float32),
        "The 16 bits still stand in the upper half: shift them down by 16.": right.astype(np.uint32) << 16,
        "That is float16, with 5 bits of exponent; bfloat16 is the upper half of a float32.": half_precision,
    })


@exercise
def safetensors_bytes(fn):
    rng = np.random.default_rng(0)
    tensors = {"läma.weight": rng.standard_normal((5, 3)).astype(np.float32).T, "norm": rng.standard_normal(7).astype(np.float32)}
    got = fn(dict(tensors))
    if not isinstance(got, bytes):
        raise AssertionError(f"Give back bytes, not {type(got).__name__}.")
    length, data = int.from_bytes(got[:8], "little"), sum(x.nbytes for x in tensors.values())
    if length > len(got) and int.from_bytes(got[:8], "big") < len(got):
        raise AssertionError("The length has its highest byte first; the lowest comes first: little-endian.")
    if b'"data_offsets"' in got and f"[{length + 8}," in got.decode("utf-8", "ignore"):
        raise AssertionError("The offsets count from the beginning of the file; they count from the end of the header.")
    if 8 + length != len(got) - data:
        raise AssertionError(f"The file has {len(got)} bytes, {data} of them numbers; so the header has {len(got) - data - 8} and not {length}: "
                             "count the bytes behind `encode`, not the characters.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(got)
        try:
            places = parse_header(path)
        except ValueError as error:
            raise AssertionError(f"The package cannot read the file: {error}.") from None
        if places.keys() != tensors.keys():
            raise AssertionError(f"The file holds {sorted(places)}; {sorted(tensors)} are wanted.")
        for name, x in tensors.items():
            if places[name][1:3] != ("F32", x.shape):
                raise AssertionError(f"{name!r} is {places[name][1]} {list(places[name][2])}; F32 {list(x.shape)} is wanted.")
            expect(read_tensor(*places[name]), x, {"The numbers of a transposed array stand column by column; `tobytes` writes them "
                                                   "row by row.": x.ravel("K").reshape(x.shape)})
