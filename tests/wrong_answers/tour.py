"""00, the tour: exercise, wrong answer, part of the hint that it gets."""

import numpy as np


def write(llama, ids, n, context=list):
    ids = list(ids)
    for _ in range(n):
        ids.append(int(llama(context(ids))[-1].argmax()))
    return ids


def write_into_the_callers_list(llama, ids, n):
    ids += write(llama, ids, n)[len(ids):]
    return ids


def count(config, n_kv_heads=None, norms=True, last_norm=True, matrices=3, head_dim=None, tied=None):
    c = config
    attention = 2 * c.dim * (head_dim or c.head_dim) * (c.n_heads + (n_kv_heads or c.n_kv_heads))
    tables = c.vocab_size * c.dim * (1 if (c.tied if tied is None else tied) else 2)
    return tables + c.n_layers * (attention + matrices * c.dim * c.hidden_dim + norms * 2 * c.dim) + last_norm * c.dim


WRONG = [
    ("likeliest", lambda logits, n: np.argsort(logits[-1])[-n:], "rising order"),
    ("likeliest", lambda logits, n: np.argsort(logits[-1])[:n], "least likely"),
    ("likeliest", lambda logits, n: np.argsort(-logits[0])[:n], "first position"),
    ("likeliest", lambda logits, n: np.sort(logits[-1])[::-1][:n], "the logits themselves"),
    ("likeliest", lambda logits, n: np.argsort(-logits)[:, :n], "Every row"),
    ("likeliest", lambda logits, n: None, "return"),
    ("likeliest", lambda logits, n: [[0], [1, 2]], "Not right yet"),
    ("likeliest", lambda logits, n: list(np.argsort(logits[-1])[-n:]), "got      ["),
    ("write_greedily", lambda llama, ids, n: write(llama, ids, n)[len(ids):], "Only the new ids"),
    ("write_greedily", lambda llama, ids, n: write(llama, ids, n, lambda written: written[-1:]), "latest token alone"),
    ("write_greedily", lambda llama, ids, n: write(llama, ids, n, lambda written: ids), "the prompt alone"),
    ("write_greedily", lambda llama, ids, n: write(lambda context: llama(context)[:1], ids, n), "first row"),
    ("write_greedily", lambda llama, ids, n: write(llama, ids, n + 1), "too many"),
    ("write_greedily", lambda llama, ids, n: write(llama, ids, n - 1), "missing"),
    ("write_greedily", write_into_the_callers_list, "own list was changed"),
    ("count_parameters", lambda c: count(c, n_kv_heads=c.n_heads), "n_kv_heads heads"),
    ("count_parameters", lambda c: count(c, head_dim=c.dim // c.n_heads), "need not be dim"),
    ("count_parameters", lambda c: count(c, tied=False), "A tied model"),
    ("count_parameters", lambda c: count(c, tied=True), "not tied"),
    ("count_parameters", lambda c: count(c, norms=False, last_norm=False), "norms have weights"),
    ("count_parameters", lambda c: count(c, last_norm=False), "one more norm"),
    ("count_parameters", lambda c: count(c, matrices=2), "three matrices"),
    ("count_parameters", lambda c: count(c) - c.n_layers * c.dim * c.n_heads * c.head_dim, "Wo is missing"),
    ("count_parameters", lambda c: count(c, n_kv_heads=c.n_heads, head_dim=c.dim // c.n_heads), "need not be dim × dim"),
    ("count_parameters", lambda c: count(c) + 1, "Not right yet"),
]
