"""04, RoPE: exercise, wrong answer, part of the hint that it gets."""

import numpy as np


def rope(x, positions, theta_base, exponent=-2, sign=1, minus=-1, first=0, interleaved=False):
    d = x.shape[-1]
    theta = theta_base ** (exponent * np.arange(d // 2) / d)
    angles = sign * np.multiply.outer(np.asarray(positions) + first, theta)
    cos, sin = np.cos(angles), np.sin(angles)
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        return np.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)
    a, b = x[..., :d // 2], x[..., d // 2:]
    return np.concatenate([a * cos + minus * b * sin, b * cos + a * sin], axis=-1)


def split(weight, n_heads):
    return weight.reshape(n_heads, -1, 2, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def join(weight, n_heads):
    return weight.reshape(n_heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def in_place(x, positions, theta_base):
    half = x.shape[-1] // 2
    angles = np.multiply.outer(positions, theta_base ** (-np.arange(half) / half))
    x[..., :half] = x[..., :half] * np.cos(angles) - x[..., half:] * np.sin(angles)
    x[..., half:] = x[..., half:] * np.cos(angles) + x[..., :half] * np.sin(angles)
    return x


WRONG = [
    ("rope_half_split", in_place, "keep a copy"),
    ("rope_half_split", lambda x, m, base: rope(x, m, base, interleaved=True), "pairs neighbors"),
    ("rope_half_split", lambda x, m, base: rope(x, m, base, sign=-1), "backwards"),
    ("rope_half_split", lambda x, m, base: rope(x, m, base, minus=1), "A minus is missing"),
    ("rope_half_split", lambda x, m, base: rope(x, range(len(m)), base), "positions are given"),
    ("rope_half_split", lambda x, m, base: rope(x, m, base, first=1), "one position too far"),
    ("rope_half_split", lambda x, m, base: rope(x, m, base, exponent=-1), "used −i/head_dim"),
    ("rope_half_split", lambda x, m, base: rope(x, m, base, exponent=-4), "used −4i/head_dim"),
    ("rope_half_split", lambda x, m, base: rope(x, m, base, exponent=2), "exponent is negative"),
    ("rope_half_split", lambda x, m, base: rope(x, m, 10_000.0), "need not be 10000"),
    ("rope_half_split", lambda x, m, base: x, "Not right yet"),
    ("rope_half_split", lambda x, m, base: None, "return"),
    ("convert_to_half_split", lambda wq, wk, n, n_kv: (split(wq, n), wk), "Wk has come back as it was"),
    ("convert_to_half_split", lambda wq, wk, n, n_kv: (wq, split(wk, n_kv)), "Wq has come back as it was"),
    ("convert_to_half_split", lambda wq, wk, n, n_kv: (split(wq, n), split(wk, n)), "Wk has 2 heads, and you seem to have cut it into 6"),
    ("convert_to_half_split", lambda wq, wk, n, n_kv: (split(wq, n_kv), split(wk, n_kv)), "Wq has 6 heads, and you seem to have cut it into 2"),
    ("convert_to_half_split", lambda wq, wk, n, n_kv: (split(wq, n), split(wk, n // n_kv)), "n_heads // n_kv_heads"),
    ("convert_to_half_split", lambda wq, wk, n, n_kv: (split(wq, 1), split(wk, 1)), "as one block"),
    ("convert_to_half_split", lambda wq, wk, n, n_kv: (join(wq, n), join(wk, n_kv)), "the way back"),
    ("convert_to_half_split", lambda wq, wk, n, n_kv: split(wq, n), "both matrices"),
    ("convert_to_half_split", lambda wq, wk, n, n_kv: (split(wq, n).reshape(n, -1, wq.shape[-1]), wk), "reshape it back"),
    ("convert_to_half_split", lambda wq, wk, n, n_kv: (split(wq, n), -split(wk, n_kv)), "Not right yet"),
    ("smallest_theta_base", lambda d, context: context / (2 * np.pi), "slowest plane"),
    ("smallest_theta_base", lambda d, context: context ** (d / (d - 2)), "not 1"),
    ("smallest_theta_base", lambda d, context: (context / np.pi) ** (d / (d - 2)), "not π"),
    ("smallest_theta_base", lambda d, context: (context / 360) ** (d / (d - 2)), "radians"),
    ("smallest_theta_base", lambda d, context: (context / (2 * np.pi)) ** ((d - 2) / d), "upside down"),
    ("smallest_theta_base", lambda d, context: (context / (2 * np.pi)) ** (d / (d - 1)), "not head_dim − 1"),
    ("smallest_theta_base", lambda d, context: int(np.ceil((context / (2 * np.pi)) ** (d / (d - 2)))), "whole number"),
    ("smallest_theta_base", lambda d, context: 10_000.0, "Not right yet"),
]
