"""05, grouped-query attention."""

import numpy as np

from ..attention import grouped_query_attention
from ..config import LlamaConfig
from ..ops import softmax
from . import exercise, expect


@exercise
def tokens_that_fit(fn):
    config = LlamaConfig(dim=48, n_layers=5, n_heads=12, n_kv_heads=4, head_dim=10, hidden_dim=76, vocab_size=96,
                         max_seq_len=32, norm_eps=1e-5, theta_base=10000.0, tied=True)
    for number_bytes in (4, 2):
        per_token = 2 * 5 * 4 * 10 * number_bytes
        memory = 1000 * per_token - 1                                          # one byte is missing for the thousandth
        expect(fn(config, memory, number_bytes), 999, {
            "Part of a token does not fit: round down, to a whole number.": memory / per_token,
            "Rounded up, the last token does not fit any more.": 1000,
            "Keys and values are kept for n_kv_heads heads, not for n_heads.": memory // (3 * per_token),
            "Keys *and* values are kept: twice as much for each token.": memory // (per_token // 2),
            "Every layer has keys and values of its own.": memory // (per_token // 5),
            "Each number takes number_bytes bytes.": memory // (per_token // number_bytes),
            "head_dim need not be dim // n_heads.": memory // (per_token // 10 * 4),
            "Keys are not dim numbers wide, but n_kv_heads heads of head_dim.": memory // (2 * 5 * 48 * number_bytes),
            "Count what fits into memory, whatever max_seq_len the model has.": 32,
        })


@exercise
def attend_in_groups(fn):
    rng = np.random.default_rng(0)
    for T_q in (3, 5, 1):
        q = rng.standard_normal((12, T_q, 6))
        k, v = rng.standard_normal((2, 4, 5, 6))

        def wrong(g, scale=6 ** -0.5, late=5 - T_q):
            """Attention in which query head h reads KV head g[h], other scores, other positions of the queries."""
            scores = q @ k[g].swapaxes(-1, -2) * scale
            return softmax(np.where(np.arange(5) <= np.arange(T_q)[:, None] + late, scores, -np.inf)) @ v[g]

        h, right = np.arange(12), grouped_query_attention(q, k, v)
        expect(fn(q.copy(), k.copy(), v.copy()), right, {
            "Heads 0, 1, 2 share KV head 0; yours are dealt out in turn, as np.tile does.": wrong(h % 4),
            "That is KV head h // n_kv_heads; it must be h // group_size.": wrong(h // 4),
            "The scores are not divided by sqrt(head_dim).": wrong(h // 3, scale=1),
            "No query may look at later positions: the causal mask is missing.": wrong(h // 3, late=5),
            "The queries are the last T_q positions; your mask takes them for the first.": wrong(h // 3, late=0),
            "A query may look at its own position, too: ≤, not <.": wrong(h // 3, late=max(4 - T_q, 0)),
            "The numbers are right; they must be returned as [n_heads, T_q, head_dim].": right.reshape(4, -1, 6),
        })


@exercise
def pool_heads(fn):
    weight = np.random.default_rng(0).standard_normal((12 * 5, 7))             # [old_heads · head_dim, dim]
    for n in (3, 4, 12, 1):
        groups = weight.reshape(n, -1, 5, 7)
        expect(fn(weight.copy(), 5, n), groups.mean(axis=1).reshape(-1, 7), {
            "These are far apart: query heads read neighbors, so neighbors must be joined.": weight.reshape(-1, n, 5, 7).mean(axis=0).reshape(-1, 7),
            "That is the sum; the mean is wanted.": groups.sum(axis=1).reshape(-1, 7),
            "That is the first head of each group; the mean of all is wanted.": groups[:, 0].reshape(-1, 7),
            "A head's own rows were averaged with each other; each row is to be averaged over the heads.": weight.reshape(n, 5, -1, 7).mean(axis=2).reshape(-1, 7),
            "The heads must lie below each other again: [n_kv_heads · head_dim, dim].": groups.mean(axis=1),
        })
