"""Grouped-query attention with its backward pass, and the cache of keys and values.

Query head h reads key/value head `h // group_size`. Keys and values are never repeated: the query
heads of a group stand below each other as `group_size · T_q` rows before one key/value head.
Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1; Ainslie et al. 2023, arXiv:2305.13245.
"""

import numpy as np

from .ops import softmax

BLOCK = 64                                             # query rows at a time: keys after the block's end are never touched


def causal_mask(T_q, T_kv, dtype=np.float32):
    """0 where query i may see key j, −inf where j lies in its future; the last query sees all keys. → [T_q, T_kv]"""
    return np.triu(np.full((T_q, T_kv), -np.inf, dtype), k=T_kv - T_q + 1)


def attention_probabilities(q, k):
    """`softmax(q kᵀ / sqrt(head_dim) + causal mask)`.

    q [..., n_heads, T_q, head_dim], the last T_q of the T_kv positions;
    k [..., n_kv_heads, T_kv, head_dim] → [..., n_heads, T_q, T_kv], rows sum to 1.
    """
    n_heads, T_q, head_dim = q.shape[-3:]
    n_kv_heads, T_kv = k.shape[-3:-1]
    assert n_heads % n_kv_heads == 0 and T_kv >= T_q and k.shape[-1] == head_dim, (q.shape, k.shape)
    scores = group(q * head_dim ** -0.5, n_kv_heads) @ k.swapaxes(-1, -2)    # [..., n_kv_heads, group_size · T_q, T_kv]
    scores = scores.reshape(*q.shape[:-1], T_kv)                                           # [..., n_heads, T_q, T_kv]
    if T_q > 1:
        scores[..., T_kv - T_q:] += causal_mask(T_q, T_q, q.dtype)                         # earlier keys are seen by all
    return softmax(scores, out=scores)


def group(x, n_kv_heads):
    """Stack the query heads that share a key/value head. [..., n_heads, T, n] → [..., n_kv_heads, group_size · T, n]"""
    return x.reshape(*x.shape[:-3], n_kv_heads, -1, x.shape[-1])


def query_blocks(T_q, T_kv):
    """Slices of at most BLOCK queries, each with the slice of the keys up to its last query's position."""
    for start in range(0, T_q, BLOCK):
        stop = min(start + BLOCK, T_q)
        yield slice(start, stop), slice(0, T_kv - T_q + stop)


def grouped_query_attention(q, k, v, keep=None):
    """`attention_probabilities(q, k) v`, for each query head with its group's keys and values.

    q [..., n_heads, T_q, head_dim], k and v [..., n_kv_heads, T_kv, head_dim] → [..., n_heads, T_q, head_dim].
    keep: a list, to which the probabilities of every block of queries are added for the backward pass.
    """
    n_kv_heads = k.shape[-3]
    out = np.empty(q.shape, q.dtype)
    for rows, keys in query_blocks(q.shape[-2], k.shape[-2]):
        probabilities = attention_probabilities(q[..., rows, :], k[..., keys, :])
        mixed = group(probabilities, n_kv_heads) @ v[..., keys, :]                         # [..., n_kv_heads, group_size · rows, head_dim]
        out[..., rows, :] = mixed.reshape(*out.shape[:-2], -1, out.shape[-1])
        if keep is not None:
            keep.append(probabilities)
    return out


def grouped_query_attention_backward(dout, out, q, k, v, kept):
    """dout, and what the forward pass took, gave and kept → dq, dk, dv; dk and dv sum over the query heads of a group.

    softmax's backward needs the sum of `dprobabilities · probabilities` over the keys; it equals `dout · out`,
    which is head_dim products instead of T_kv.
    """
    n_kv_heads = k.shape[-3]
    q = q * q.shape[-1] ** -0.5
    dq, dk, dv = np.empty(q.shape, q.dtype), np.zeros(k.shape, k.dtype), np.zeros(v.shape, v.dtype)
    row_sums = np.vecdot(dout, out)[..., None]                                             # [..., n_heads, T_q, 1]
    for (rows, keys), probabilities in zip(query_blocks(q.shape[-2], k.shape[-2]), kept, strict=True):
        probabilities, dout_rows = group(probabilities, n_kv_heads), group(dout[..., rows, :], n_kv_heads)
        dscores = dout_rows @ v[..., keys, :].swapaxes(-1, -2)                             # [..., n_kv_heads, group_size · rows, keys]
        dscores -= group(row_sums[..., rows, :], n_kv_heads)
        dscores *= probabilities
        dq[..., rows, :] = (dscores @ k[..., keys, :]).reshape(*dq.shape[:-2], -1, dq.shape[-1])
        dk[..., keys, :] += dscores.swapaxes(-1, -2) @ group(q[..., rows, :], n_kv_heads)
        dv[..., keys, :] += probabilities.swapaxes(-1, -2) @ dout_rows
    dq *= q.shape[-1] ** -0.5
    return dq, dk, dv


class KVCache:
    """The keys, already rotated, and the values of every position so far; allocated once, filled in place.

    keys, values [n_layers, ..., n_kv_heads, max_seq_len, head_dim]; `length` positions are filled.
    """

    def __init__(self, config, max_seq_len=None, batch_shape=(), dtype=np.float32):
        max_seq_len = max_seq_len or config.max_seq_len
        shape = (config.n_layers, *batch_shape, config.n_kv_heads, max_seq_len, config.head_dim)
        self.keys, self.values = np.zeros(shape, dtype), np.zeros(shape, dtype)
        self.max_seq_len, self.length = max_seq_len, 0

    def extend(self, layer, k, v):
        """Store k, v [..., n_kv_heads, T, head_dim] of the next T positions and return all up to there.

        `length` is moved on by the model, once all layers have stored theirs.
        """
        end = self.length + k.shape[-2]
        self.keys[layer, ..., self.length:end, :] = k
        self.values[layer, ..., self.length:end, :] = v
        return self.keys[layer, ..., :end, :], self.values[layer, ..., :end, :]
