"""00, the tour."""

import numpy as np

from ..config import LlamaConfig
from ..model import weight_shapes
from . import exercise, expect


@exercise
def likeliest(fn):
    logits = np.random.default_rng(0).standard_normal((5, 11)).astype(np.float32)          # [T, vocab_size]
    first, *_, last = np.argsort(-logits, axis=-1)
    for n in (3, 1, 11):
        expect(fn(logits.copy(), n), last[:n], {
            "These stand in rising order; the likeliest comes first.": last[:n][::-1],
            "These are the least likely ones; `np.argsort` sorts upwards.": last[::-1][:n],
            "That is read from the first position; what comes after the text stands in the last row.": first[:n],
            "These are the logits themselves; the ids are wanted, which are their places.": logits[-1, last[:n]],
            "Every row has been sorted; only the last one speaks of the token that comes next.": np.argsort(-logits)[:, :n],
        })


@exercise
def write_greedily(fn):
    def llama(ids):
        """A stand-in whose next token depends on all ids so far and on their order."""
        ids = np.asarray(ids)
        return np.eye(17, dtype=np.float32)[(ids * np.arange(3, 3 + len(ids))).cumsum() % 17]          # [T, vocab_size]

    def written(n, context, row=-1):
        ids = [1, 5, 2]
        for _ in range(n):
            ids.append(int(llama(context(ids))[row].argmax()))
        return ids

    for n in (6, 1):
        prompt, right = [1, 5, 2], written(n, list)
        got = fn(llama, prompt, n)
        expect(got, right, {
            "Only the new ids came back; the prompt stays in front.": right[3:],
            "The model saw the latest token alone; at every step it needs all the ids so far.": written(n, lambda ids: ids[-1:]),
            "Every step saw the prompt alone; what has been written belongs to the context too.": written(n, lambda ids: ids[:3]),
            "The first row was read; the next token is told by the last one.": written(n, list, row=0),
            "One token too many.": written(n + 1, list),
            "One token is missing.": written(n - 1, list),
        })
        if prompt != [1, 5, 2]:
            raise AssertionError("The ids are right, but the caller's own list was changed; make a new one.")


@exercise
def count_parameters(fn):
    def config(**changed):
        return LlamaConfig(**{"dim": 48, "n_layers": 3, "n_heads": 8, "n_kv_heads": 2, "head_dim": 14, "hidden_dim": 76, "vocab_size": 96,
                              "max_seq_len": 32, "norm_eps": 1e-5, "theta_base": 10000.0} | changed)

    def count(**changed):
        return sum(int(np.prod(shape)) for shape in weight_shapes(config(**changed)).values())

    for tied in (True, False):
        c, right = config(tied=tied), count(tied=tied)
        other_table = "A tied model has no lm_head of its own." if tied else "This model is not tied: lm_head is a second table."
        expect(fn(c), right, {
            "Wk and Wv have n_kv_heads heads, not n_heads.": count(tied=tied, n_kv_heads=8),
            "Wq has n_heads · head_dim rows; that need not be dim.": count(tied=tied, head_dim=6),
            "Wo is missing, which leads from the heads back to the stream.": right - c.n_layers * c.dim * c.n_heads * c.head_dim,
            "Attention's matrices need not be dim × dim; look at the shapes of Wq and Wk.": count(tied=tied, n_kv_heads=8, head_dim=6),
            other_table: count(tied=not tied),
            "The norms have weights too: two in every block and one at the end.": right - (2 * c.n_layers + 1) * c.dim,
            "Behind the last block comes one more norm.": right - c.dim,
            "SwiGLU has three matrices: w_gate, w_up and w_down.": right - c.n_layers * c.hidden_dim * c.dim,
            "There are n_layers blocks, not one.": count(tied=tied, n_layers=1),
        })
