"""08, writing text: exercise, wrong answer, part of the hint that it gets."""

import numpy as np

from minillama.attention import KVCache


def cut(stays, order=lambda p: np.argsort(-p), divide=True, place=True):
    """Top-p with another rule for what stays (of the mass before a token and its own), another order, no division, no way back."""
    def answer(p, top_p):
        ranked, kept = p[order(p)], np.zeros_like(p)
        left = ranked * stays(ranked.cumsum() - ranked, ranked, top_p)
        kept[order(p) if place else slice(None)] = left
        return kept / kept.sum() if divide and kept.sum() else kept
    return answer


def before(before, p, top_p):
    return before < top_p - 1e-12


def share_of_tokens(p, top_p):
    kept = p * (np.argsort(np.argsort(-p)) < np.ceil(len(p) * top_p))
    return kept / kept.sum()


def loop(fresh=False, everything=False, row=-1, finish=lambda ids, n_prompt: ids, again=False, extra=0):
    def answer(llama, ids, n):
        n_prompt, cache, new = len(ids), KVCache(llama.config), ids
        for _ in range(n + extra):
            logits = llama(ids) if again else llama(ids if everything else new, cache)
            new = [int(logits[row if len(logits) > 1 else 0].argmax())]
            ids, cache = [*ids, *new], KVCache(llama.config) if fresh else cache
        return finish(ids, n_prompt)
    return answer


def growing(llama, ids, n):
    cache, new = KVCache(llama.config), list(ids)
    for _ in range(n):
        new = [int(llama(new, cache)[-1].argmax())]
        ids += new
    return ids


def twice(llama, ids, n):
    llama(ids)
    return loop()(llama, ids, n)


def scored(rows=slice(None, -1), tokens=slice(1, None), finish=np.sum, safe=True, prompt=True, tail=None):
    def answer(llama, before, after):
        ids = [*before, *after] if prompt else after
        z = llama(ids)
        z = z - z.max(axis=-1, keepdims=True) if safe else z
        log_p = (z - np.log(np.exp(z).sum(axis=-1, keepdims=True)))[rows]
        each = log_p[np.arange(len(ids[tokens])), ids[tokens]]
        return finish(each[-(tail or len(after)):] if tail != 0 else each)
    return answer


WRONG = [
    ("nucleus", cut(lambda before, p, top_p: before + p <= top_p + 1e-12), "crosses top_p must stay"),
    ("nucleus", cut(before, divide=False), "must sum to 1 again"),
    ("nucleus", cut(before, order=lambda p: np.arange(len(p))), "lowest id"),
    ("nucleus", cut(before, place=False), "at their own ids"),
    ("nucleus", cut(lambda before, p, top_p: before <= top_p + 1e-12), "reached exactly"),
    ("nucleus", share_of_tokens, "share of the mass"),
    ("nucleus", cut(before, order=np.argsort), "Not right yet"),
    ("nucleus", lambda p, top_p: None, "return"),
    ("write_with_cache", loop(fresh=True), "made anew"),
    ("write_with_cache", loop(everything=True), "feed the new ones only"),
    ("write_with_cache", loop(row=0), "not the first"),
    ("write_with_cache", loop(finish=lambda ids, n_prompt: ids[n_prompt:]), "those of the prompt"),
    ("write_with_cache", loop(extra=-1), "one token too few"),
    ("write_with_cache", loop(extra=1), "one token too many"),
    ("write_with_cache", growing, "make a new one"),
    ("write_with_cache", loop(again=True), "everything again"),
    ("write_with_cache", twice, "more than is new"),
    ("write_with_cache", lambda llama, ids, n: None, "return"),
    ("continuation_score", scored(finish=np.mean), "the mean per token"),
    ("continuation_score", scored(tail=0), "not scored"),
    ("continuation_score", scored(finish=lambda each: -each.sum()), "the other sign"),
    ("continuation_score", scored(tail=2), "by the prompt's last row"),
    ("continuation_score", scored(slice(None), slice(None)), "not of token t"),
    ("continuation_score", scored(finish=lambda each: each.sum() / np.log(2)), "in bits"),
    ("continuation_score", scored(safe=False), "overflow in exp"),
    ("continuation_score", scored(prompt=False), "without its prompt"),
    ("continuation_score", scored(finish=lambda each: np.exp(each.sum())), "Not right yet"),
    ("continuation_score", lambda llama, prompt, text: None, "return"),
]
