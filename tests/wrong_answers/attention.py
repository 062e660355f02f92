"""03, attention: exercise, wrong answer, part of the hint that it gets."""

import numpy as np


def softmax(scores):
    y = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return y / y.sum(axis=-1, keepdims=True)


def overflowing(scores):
    return np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)


def over_sum(p):
    with np.errstate(invalid="ignore"):
        return p / p.sum(axis=-1, keepdims=True)


def hidden_itself(scores):
    with np.errstate(invalid="ignore"):
        return softmax(scores + future(scores, 0))


def future(scores, first=1):
    return np.triu(np.full(scores.shape[-2:], -np.inf), k=first)


def transposed(x):
    return x.swapaxes(-1, -2)


def cut(x, n_heads):
    return x.reshape(len(x), n_heads, -1).swapaxes(0, 1)


def join(x):
    return x.swapaxes(0, 1).reshape(x.shape[1], -1)


def fuse(x):
    return x.reshape(x.shape[1], -1)


def attention(p_of=lambda s: softmax(s + future(s)), cut=cut, join=join, root=0.5, width=lambda q, x: q.shape[-1], with_wo=True):
    def answer(x, wq, wk, wv, wo, n_heads):
        q, k, v = (cut(x @ w.T, n_heads) for w in (wq, wk, wv))
        mixed = join(p_of(q @ transposed(k) / width(q, x) ** root) @ v)
        return mixed @ wo.T if with_wo else mixed
    return answer


def gradients(through=lambda dp, p: p * (dp - (p * dp).sum(axis=-1, keepdims=True)), first=1, scale=0.5, for_k=transposed, for_v=transposed):
    def answer(dout, q, k, v):
        scores = q @ transposed(k) / 2
        p = softmax(scores + future(scores, first))
        ds = through(dout @ transposed(v), p)
        return ds @ k * scale, for_k(ds) @ q * scale, for_v(p) @ dout
    return answer


WRONG = [
    ("multi_head_attention", attention(root=0), "lack the division"),
    ("multi_head_attention", attention(root=1), "not by head_dim itself"),
    ("multi_head_attention", attention(width=lambda q, x: x.shape[-1]), "not of dim"),
    ("multi_head_attention", attention(softmax), "Nothing hides the future"),
    ("multi_head_attention", attention(lambda s: softmax(s) * np.tri(s.shape[-1])), "after softmax"),
    ("multi_head_attention", attention(lambda s: softmax(s * np.tri(s.shape[-1]))), "Not right yet"),
    ("multi_head_attention", attention(lambda s: softmax(s + future(s, 2))), "Not right yet"),
    ("multi_head_attention", attention(cut=lambda x, n: x.reshape(n, len(x), -1), join=fuse), "between tokens"),
    ("multi_head_attention", attention(join=fuse), "laid side by side"),
    ("multi_head_attention", attention(with_wo=False), "through wo"),
    ("multi_head_attention", attention(hidden_itself), "Rows of NaN"),
    ("multi_head_attention", attention(lambda s: overflowing(s + future(s))), "large scores"),
    ("multi_head_attention", attention(lambda s: over_sum(softmax(s) * np.tri(s.shape[-1]))), "mask them first"),
    ("multi_head_attention", lambda *arguments: None, "return"),
    ("attention_gradients", gradients(scale=1), "lack the factor"),
    ("attention_gradients", gradients(lambda dp, p: p * dp), "second term"),
    ("attention_gradients", gradients(lambda dp, p: p * (1 - p) * dp), "its own alone"),
    ("attention_gradients", gradients(for_k=lambda ds: ds), "dk is dsᵀ q"),
    ("attention_gradients", gradients(for_v=lambda p: p), "dv is pᵀ dout"),
    ("attention_gradients", gradients(lambda dp, p: p * (dp - (p * dp).sum(axis=-2, keepdims=True))), "Not right yet"),
    ("attention_gradients", gradients(lambda dp, p: dp), "Not right yet"),
    ("attention_gradients", gradients(first=5), "Not right yet"),
]
