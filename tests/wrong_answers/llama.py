"""07, the whole Llama and its file: exercise, wrong answer, part of the hint that it gets."""

import json

import numpy as np


def softmax(logits):
    y = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return y / y.sum(axis=-1, keepdims=True)


def perplexity(rows=slice(None, -1), tokens=slice(1, None), softmax=softmax, finish=lambda p: np.exp(-np.log(p).mean())):
    def answer(logits, ids):
        p, ids = softmax(logits)[rows], ids[tokens]
        return finish(p[np.arange(len(ids)), ids])
    return answer


def overflowing(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def bits(change):
    return lambda x: (change(x.view(np.uint32)) >> 16).astype(np.uint16)


def rounded(x):
    b = x.view(np.uint32)
    return (b + 0x7FFF + (b >> 16 & 1)) >> 16


def file(order="little", first=0, step=1, dtype="F32", number="<f4", shape=list, to_bytes=lambda x: x.tobytes(), skip=0, extra=0, text=json.dumps):
    def answer(tensors):
        def header(first):
            entries, end = {}, first
            for name, x in list(tensors.items())[skip:]:
                size = np.dtype(number).itemsize * x.size // step
                entries[name] = {"dtype": dtype, "shape": shape(x.shape), "data_offsets": [end, end + size]}
                end += size
            return text(entries).encode()
        start = header(first)
        while first and len(start) + 8 != first_of(start):
            start = header(len(start) + 8)
        data = b"".join(to_bytes(x.astype(number, order="K")) for x in list(tensors.values())[skip:])
        return (len(start) + extra).to_bytes(8, order) + start + data
    return answer


def first_of(header):
    return json.loads(header)["läma.weight"]["data_offsets"][0]


WRONG = [
    ("perplexity_of", perplexity(slice(None), slice(None)), "not of token t"),
    ("perplexity_of", perplexity(slice(1, None), slice(None, -1)), "not of the one before"),
    ("perplexity_of", perplexity(finish=lambda p: -np.log(p).mean()), "That is the loss"),
    ("perplexity_of", perplexity(finish=lambda p: np.exp(-np.log(p).sum())), "exp of the sum"),
    ("perplexity_of", perplexity(finish=lambda p: np.exp(-np.log(p).sum() / (len(p) + 1))), "not over T"),
    ("perplexity_of", perplexity(finish=lambda p: np.mean(1 / p)), "mean of 1/p"),
    ("perplexity_of", perplexity(finish=lambda p: 1 / np.mean(p)), "mean of p"),
    ("perplexity_of", perplexity(finish=lambda p: np.exp(-np.log2(p).mean())), "in bits"),
    ("perplexity_of", perplexity(softmax=np.exp), "not yet log p"),
    ("perplexity_of", perplexity(softmax=overflowing), "overflow in exp"),
    ("perplexity_of", perplexity(finish=lambda p: np.exp(np.log(p).mean())), "Not right yet"),
    ("perplexity_of", lambda logits, ids: None, "return"),
    ("round_to_bfloat16", bits(lambda b: b), "cuts the lower half off"),
    ("round_to_bfloat16", bits(lambda b: b + 0x8000), "Ties went up"),
    ("round_to_bfloat16", bits(lambda b: b + 0x7FFF), "Ties went down"),
    ("round_to_bfloat16", bits(lambda b: b + 0x8000 - (b >> 16 & 1)), "whose last bit is 1"),
    ("round_to_bfloat16", bits(lambda b: b + 0xFFFF), "past the middle"),
    ("round_to_bfloat16", lambda x: (rounded(x) << 16).view(np.float32), "their 16 bits are wanted"),
    ("round_to_bfloat16", lambda x: rounded(x) << 16, "shift them down"),
    ("round_to_bfloat16", lambda x: x.astype(np.float16).view(np.uint16), "That is float16"),
    ("round_to_bfloat16", lambda x: rounded(x).ravel(), "Not right yet"),
    ("safetensors_bytes", lambda tensors: json.dumps(list(tensors)), "bytes, not str"),
    ("safetensors_bytes", lambda tensors: None, "bytes, not NoneType"),
    ("safetensors_bytes", file(order="big"), "little-endian"),
    ("safetensors_bytes", file(first=1), "end of the header"),
    ("safetensors_bytes", file(extra=8), "so the header has"),
    ("safetensors_bytes", file(extra=-1), "behind `encode`"),
    ("safetensors_bytes", file(text=str), "not valid JSON"),
    ("safetensors_bytes", file(step=4), "its offsets span 15"),
    ("safetensors_bytes", file(dtype="F64", number="<f8"), "of them numbers"),
    ("safetensors_bytes", file(dtype="float32"), "dtype 'float32'"),
    ("safetensors_bytes", file(shape=lambda shape: list(shape[::-1])), "is F32 [5, 3]"),
    ("safetensors_bytes", file(skip=1), "of them numbers"),
    ("safetensors_bytes", file(to_bytes=lambda x: x.tobytes("A")), "row by row"),
    ("safetensors_bytes", file(number=">f4"), "Not right yet"),
]
