"""03, attention."""

import numpy as np

from ..attention import causal_mask, grouped_query_attention, grouped_query_attention_backward
from ..model import merge_heads, split_heads
from ..ops import softmax, softmax_backward
from . import exercise, expect


def masked(scores):
    return softmax(scores + causal_mask(*scores.shape[-2:]))


@exercise
def multi_head_attention(fn):
    rng, (T, dim, n_heads, head_dim) = np.random.default_rng(3), (5, 10, 3, 4)
    x, wo = rng.standard_normal((T, dim)), rng.standard_normal((dim, n_heads * head_dim))
    wq, wk, wv = weights = rng.standard_normal((3, n_heads * head_dim, dim)) / 2

    def answer(x=x, p_of=masked, scale=head_dim ** 0.5, split=split_heads, merge=merge_heads, wo=wo):
        q, k, v = (split(x @ w.T, n_heads) for w in weights)
        return merge(p_of(q @ k.swapaxes(-1, -2) / scale) @ v) @ wo.T

    got = fn(x.copy(), wq, wk, wv, wo, n_heads)
    if got is not None and np.shape(got) == x.shape and np.isnan(got).any():
        raise AssertionError("Rows of NaN: every row of scores needs a finite one. May a token look at itself?")
    expect(got, answer(), {
        "The scores lack the division by the root of head_dim.": answer(scale=1),
        "Scores are divided by the root of head_dim, not by head_dim itself.": answer(scale=head_dim),
        "Scores are divided by the root of head_dim, not of dim.": answer(scale=dim ** 0.5),
        "What the heads give, side by side, still has to go through wo.": answer(wo=np.eye(n_heads * head_dim)),
        "Nothing hides the future: add −inf above the diagonal, before softmax.": answer(p_of=softmax),
        "The future is hidden after softmax, and rows sum to less than 1: add −inf before it.": answer(p_of=lambda s: softmax(s) * np.tri(T)),
        "One reshape cuts between tokens: first [T, n_heads, head_dim], then exchange the first two axes.":
            answer(split=lambda x, n: x.reshape(n, T, -1), merge=lambda x: x.reshape(T, -1)),
        "Before the heads are laid side by side, exchange the first two axes back.": answer(merge=lambda x: x.reshape(T, -1)),
    })
    with np.errstate(all="ignore"):
        got = fn(40 * x, wq, wk, wv, wo, n_heads)                                          # scores of several thousand
    if not np.isfinite(got).all():
        raise AssertionError("Right, but not for large scores: mask them first, then subtract each row's largest, then `exp`.")
    expect(got, answer(40 * x))


@exercise
def attention_gradients(fn):
    dout, q, k, v = np.random.default_rng(5).standard_normal((4, 3, 5, 4))                 # [n_heads, T, head_dim] each
    p, dp = masked(q @ k.swapaxes(-1, -2) / 2), dout @ v.swapaxes(-1, -2)
    ds, half_way, own = softmax_backward(dp, p), p * dp, p * (1 - p) * dp
    dq, dk, dv = right = grouped_query_attention_backward(dout, grouped_query_attention(q, k, v), q, k, v, [p])
    expect(fn(dout, q, k, v), right, {
        "dq and dk lack the factor 1/√head_dim that stands between the product and the scores.": (2 * dq, 2 * dk, dv),
        "The way back through softmax lacks its second term, the sum of p · dp.": (half_way @ k / 2, half_way.swapaxes(-1, -2) @ q / 2, dv),
        "A score moves every probability of its row, not its own alone: p (1 − p) dp is not all.": (own @ k / 2, own.swapaxes(-1, -2) @ q / 2, dv),
        "dk is dsᵀ q: a key collects from all the queries that looked at it.": (dq, ds @ q / 2, dv),
        "dv is pᵀ dout: a value collects from all the queries that looked at it.": (dq, dk, p @ dout),
    })
