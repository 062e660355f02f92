"""08, writing text."""

import numpy as np

from ..attention import KVCache
from ..config import LlamaConfig
from ..model import Llama, random_weights
from . import exercise, expect


class Counting(Llama):
    """A small random Llama in float64 that counts the tokens it is fed."""

    def __init__(self, seed, width=2):
        config = LlamaConfig(dim=24, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=6, hidden_dim=40, vocab_size=50,
                             max_seq_len=256, norm_eps=1e-5, theta_base=10000.0, tied=False)
        super().__init__(config, {name: width * weight for name, weight in random_weights(config, seed, np.float64).items()})
        self.fed = 0

    def __call__(self, ids, cache=None, **settings):
        self.fed += np.shape(ids)[-1]
        return super().__call__(ids, cache, **settings)


@exercise
def nucleus(fn):
    p = np.array([2, 10, 1, 20, 3, 4]) / 40                                    # 0.5 is reached exactly
    order = np.argsort(-p)
    rank = np.argsort(order)
    before, in_turn = (p[order].cumsum() - p[order])[rank], p.cumsum() - p

    def normalized(kept):
        return kept / max(kept.sum(), 1e-12)

    for top_p in (0.7, 0.5, 0.93, 1):
        kept = p * (before < top_p - 1e-12)
        expect(fn(p.copy(), top_p), normalized(kept), {
            "The token that crosses top_p must stay; without it the mass is too small.": normalized(p * (before + p <= top_p + 1e-12)),
            "What is left must sum to 1 again: divide.": kept,
            "The likeliest tokens come first, not those with the lowest id.": normalized(p * (in_turn < top_p - 1e-12)),
            "The probabilities must stand at their own ids again, not sorted.": normalized(kept)[order],
            "Where top_p is reached exactly, no further token is needed.": normalized(p * (before <= top_p + 1e-12)),
            "That keeps a share top_p of the tokens; a share of the mass is meant.": normalized(p * (rank < np.ceil(6 * top_p))),
        })


def likeliest(llama, ids, cache=None, row=-1):
    return int(Llama.__call__(llama, ids, cache)[row if len(ids) > 1 else 0].argmax())     # past the count


@exercise
def write_with_cache(fn):
    llama, prompt, n = Counting(0), [7, 3, 41, 12, 30], 12

    def wrong(fresh=False, everything=False, row=-1):
        """What comes of a cache that is made anew or fed all ids at each step, and of another row."""
        cache, new, ids = KVCache(llama.config), prompt, prompt
        for _ in range(n):
            ids = [*ids, likeliest(llama, new, cache, row)]
            cache, new = KVCache(llama.config) if fresh else cache, ids if everything else ids[-1:]
        return ids

    right = prompt
    for _ in range(n + 1):
        right = [*right, likeliest(llama, right)]
    given = list(prompt)
    got = fn(llama, given, n)
    if given != prompt:
        raise AssertionError("The caller's list has changed; make a new one.")
    expect(got, right[:-1], {
        "Give back all ids, those of the prompt, too.": right[5:-1],
        "The model has forgotten the text: the cache was made anew at each step.": wrong(fresh=True),
        "The cache already holds the old ids; feed the new ones only.": wrong(everything=True),
        "The last row speaks of the next token, not the first.": wrong(row=0),
        "That is one token too few.": right[:-2],
        "That is one token too many.": right,
    })
    if llama.fed not in (16, 17):                                              # 17: the last token was fed as well, which is harmless
        what = "everything again at each step" if llama.fed == sum(range(5, 17)) else "more than is new"
        raise AssertionError(f"The text is right, but {llama.fed} tokens were fed, {what}; 5 + {n} − 1 = 16 are enough.")


@exercise
def continuation_score(fn):
    llama, prompt, text = Counting(1), [7, 3, 41, 12, 30], [8, 30, 19]
    llama.weights["lm_head"] *= 400                                            # exp of such logits overflows

    def log_p(ids):
        z = Llama.__call__(llama, ids)
        z -= z.max(axis=-1, keepdims=True)
        return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))

    all_ids = log_p([*prompt, *text])
    each = all_ids[np.arange(7), [*prompt, *text][1:]]                         # row t speaks of token t + 1
    with np.errstate(all="ignore"):
        got = fn(llama, list(prompt), list(text))
    if got is not None and not np.isfinite(got):
        raise AssertionError("Logits of 1000 overflow in exp: subtract each row's largest one first.")
    expect(got, each[4:].sum(), {
        "That is the mean per token; the logarithm of a product is a sum.": each[4:].mean(),
        "The prompt's tokens are given; they are not scored.": each.sum(),
        "That is the loss; the log-probability has the other sign.": -each[4:].sum(),
        "The first token of the continuation is scored, too, by the prompt's last row.": each[5:].sum(),
        "Row t speaks of token t + 1, not of token t.": all_ids[[5, 6, 7], text].sum(),
        "That is in bits; in nats is wanted: log, not log2.": each[4:].sum() / np.log(2),
        "The continuation was scored without its prompt.": log_p(text)[[0, 1], text[1:]].sum(),
    })
