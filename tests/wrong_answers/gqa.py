"""05, grouped-query attention: exercise, wrong answer, part of the hint that it gets."""

import numpy as np


def fit(c, memory, number_bytes, kinds=2, n_layers=None, n_heads=None, head_dim=None):
    return memory // (kinds * (n_layers or c.n_layers) * (n_heads or c.n_kv_heads) * (head_dim or c.head_dim) * number_bytes)


def attend(q, k, v, read=lambda h, n_heads, n_kv_heads: h // (n_heads // n_kv_heads), scale=None, first=None, masked=True):
    T_q, T_kv, out = q.shape[1], k.shape[1], np.empty_like(q)
    position = np.arange(T_q)[:, None] + (T_kv - T_q if first is None else first)
    for h in range(len(q)):
        g = read(h, len(q), len(k))
        scores = q[h] @ k[g].T / (scale or q.shape[-1] ** 0.5)
        if masked:
            scores[np.arange(T_kv) > position] = -np.inf
        p = np.exp(scores)
        out[h] = p / p.sum(axis=-1, keepdims=True) @ v[g]
    return out


def groups(weight, head_dim, n_kv_heads):
    return weight.reshape(n_kv_heads, -1, head_dim, weight.shape[-1])


WRONG = [
    ("tokens_that_fit", lambda c, memory, b: memory / (2 * c.n_layers * c.n_kv_heads * c.head_dim * b), "round down"),
    ("tokens_that_fit", lambda c, memory, b: fit(c, memory, b) + 1, "Rounded up"),
    ("tokens_that_fit", lambda c, memory, b: fit(c, memory, b, n_heads=c.n_heads), "not for n_heads"),
    ("tokens_that_fit", lambda c, memory, b: fit(c, memory, b, kinds=1), "Keys *and* values"),
    ("tokens_that_fit", lambda c, memory, b: fit(c, memory, b, n_layers=1), "Every layer"),
    ("tokens_that_fit", lambda c, memory, b: fit(c, memory, 1), "number_bytes"),
    ("tokens_that_fit", lambda c, memory, b: fit(c, memory, b, head_dim=c.dim // c.n_heads), "need not be"),
    ("tokens_that_fit", lambda c, memory, b: memory // (2 * c.n_layers * c.dim * b), "not dim numbers wide"),
    ("tokens_that_fit", lambda c, memory, b: min(c.max_seq_len, fit(c, memory, b)), "max_seq_len"),
    ("attend_in_groups", lambda q, k, v: attend(q, k, v, lambda h, n_heads, n_kv_heads: h % n_kv_heads), "np.tile"),
    ("attend_in_groups", lambda q, k, v: attend(q, k, v, lambda h, n_heads, n_kv_heads: h // n_kv_heads), "h // group_size"),
    ("attend_in_groups", lambda q, k, v: attend(q, k, v, scale=1), "sqrt(head_dim)"),
    ("attend_in_groups", lambda q, k, v: attend(q, k, v, masked=False), "causal mask is missing"),
    ("attend_in_groups", lambda q, k, v: attend(q, k, v, first=0), "takes them for the first"),
    ("attend_in_groups", lambda q, k, v: attend(q, k, v, first=k.shape[1] - q.shape[1] - 1), "its own position"),
    ("attend_in_groups", lambda q, k, v: attend(q, k, v).reshape(len(k), -1, 6), "must be returned"),
    ("attend_in_groups", lambda q, k, v: attend(q, k, v).swapaxes(0, 1), "Not right yet"),
    ("pool_heads", lambda w, head_dim, n: w.reshape(-1, n, head_dim, w.shape[-1]).mean(axis=0).reshape(-1, w.shape[-1]), "neighbors"),
    ("pool_heads", lambda w, head_dim, n: groups(w, head_dim, n).sum(axis=1).reshape(-1, w.shape[-1]), "the sum"),
    ("pool_heads", lambda w, head_dim, n: groups(w, head_dim, n)[:, 0].reshape(-1, w.shape[-1]), "the first head"),
    ("pool_heads", lambda w, head_dim, n: w.reshape(n, head_dim, -1, w.shape[-1]).mean(axis=2).reshape(-1, w.shape[-1]), "own rows"),
    ("pool_heads", lambda w, head_dim, n: groups(w, head_dim, n).mean(axis=1), "below each other"),
    ("pool_heads", lambda w, head_dim, n: None, "return"),
]
