"""The whole Llama: embedding → blocks → norm → logits, and the way back for its gradients.

Source: Touvron et al. 2023, arXiv:2302.13971, section 2.2.
"""

import numpy as np

from .attention import grouped_query_attention, grouped_query_attention_backward
from .ops import (cross_entropy, cross_entropy_backward, embed, embed_backward, linear, linear_backward,
                  rms_norm, rms_norm_backward, swiglu, swiglu_backward)
from .rope import apply_rope, apply_rope_backward, rope_angles, rope_tables


def weight_shapes(config):
    """The name and the shape [out, in] of every weight of a Llama with this configuration."""
    c = config
    shapes = {"embedding": (c.vocab_size, c.dim)}
    for i in range(c.n_layers):
        shapes |= {
            f"layers.{i}.attn_norm": (c.dim,),
            f"layers.{i}.wq": (c.n_heads * c.head_dim, c.dim),
            f"layers.{i}.wk": (c.n_kv_heads * c.head_dim, c.dim),
            f"layers.{i}.wv": (c.n_kv_heads * c.head_dim, c.dim),
            f"layers.{i}.wo": (c.dim, c.n_heads * c.head_dim),
            f"layers.{i}.ffn_norm": (c.dim,),
            f"layers.{i}.w_gate": (c.hidden_dim, c.dim),
            f"layers.{i}.w_up": (c.hidden_dim, c.dim),
            f"layers.{i}.w_down": (c.dim, c.hidden_dim),
        }
    shapes["final_norm"] = (c.dim,)
    if not c.tied:
        shapes["lm_head"] = (c.vocab_size, c.dim)
    return shapes


def random_weights(config, seed, dtype=np.float32):
    """Weights to start training from: matrices normal, 1/sqrt(n_in) wide, so that what goes in comes out as large; norms 1.

    Where a block writes to the residual stream they are narrower, since 2 · n_layers such writes add up. The embedding
    is as wide as the rest: were it much narrower, tokens that are used alike would soon be too alike to be told apart.
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in weight_shapes(config).items():
        width = shape[-1] ** -0.5 / ((2 * config.n_layers) ** 0.5 if name.endswith(("wo", "w_down")) else 1)
        weights[name] = np.ones(shape, dtype) if name.endswith("norm") else (width * rng.standard_normal(shape)).astype(dtype)
    return weights


def split_heads(x, n_heads):
    """[..., T, n_heads · head_dim] → [..., n_heads, T, head_dim], a view."""
    return x.reshape(*x.shape[:-1], n_heads, -1).swapaxes(-2, -3)


def merge_heads(x):
    """[..., n_heads, T, head_dim] → [..., T, n_heads · head_dim]"""
    x = x.swapaxes(-2, -3)
    return x.reshape(*x.shape[:-2], -1)


class Llama:
    """A configuration and its weights, `{short name: array}` as `weight_shapes` lists them.

    `llama(ids)` gives the logits. float32, or float64 for checks of gradients.
    """

    def __init__(self, config, weights):
        expected = weight_shapes(config)
        wrong = {name for name in expected.keys() & weights.keys() if weights[name].shape != expected[name]}
        if expected.keys() != weights.keys() or wrong:
            raise ValueError(f"weights do not fit the configuration: missing {sorted(expected.keys() - weights.keys())}, "
                             f"unexpected {sorted(weights.keys() - expected.keys())}, of a wrong shape {sorted(wrong)}")
        self.config, self.weights = config, weights
        self.dtype = weights["embedding"].dtype
        if self.dtype not in (np.float32, np.float64) or any(weight.dtype != self.dtype for weight in weights.values()):
            raise ValueError(f"weights must all be float32 (or all float64), not {sorted({str(w.dtype) for w in weights.values()})}")

    def __call__(self, ids, cache=None, last=False, trace=None):
        """Logits of the next token at every position. ids [..., T] → [..., T, vocab_size].

        cache: a `KVCache` whose positions come before ids; it is extended by them.
        last:  only the last position's logits, [..., 1, vocab_size].
        trace: a list, to which every layer adds a dictionary of its activations.
        Raises ValueError for ids out of range and for sequences beyond `max_seq_len`.
        """
        start_pos = cache.length if cache is not None else 0
        ids = self.check(ids, start_pos, cache)
        cos, sin = self.rotations(start_pos, ids.shape[-1])
        x = embed(ids, self.weights["embedding"])                              # [..., T, dim]
        for i in range(self.config.n_layers):
            if trace is not None:
                trace.append({})
            x = self.block(i, x, cos, sin, cache, trace[i] if trace is not None else None)
        if cache is not None:
            cache.length += ids.shape[-1]
        if last:
            x = x[..., -1:, :]
        logits = linear(rms_norm(x, self.weights["final_norm"], self.config.norm_eps), self.lm_head)
        assert logits.dtype == self.dtype                                      # NumPy turns to float64 without a word
        return logits

    def block(self, i, x, cos, sin, cache=None, keep=None):
        """Layer i: x += attention(norm(x)); x += swiglu(norm(x)). x [..., T, dim] → the same.

        keep: a dictionary that takes the activations, for the backward pass or for a look inside.
        """
        c, w = self.config, self.layer(i)
        probabilities, hidden = ([], []) if keep is not None else (None, None)
        a = rms_norm(x, w["attn_norm"], c.norm_eps)                            # [..., T, dim]
        q = apply_rope(split_heads(linear(a, w["wq"]), c.n_heads), cos, sin)   # [..., n_heads, T, head_dim]
        k = apply_rope(split_heads(linear(a, w["wk"]), c.n_kv_heads), cos, sin)
        v = split_heads(linear(a, w["wv"]), c.n_kv_heads)                      # [..., n_kv_heads, T, head_dim]
        if cache is not None:
            k, v = cache.extend(i, k, v)                                       # [..., n_kv_heads, T_kv, head_dim]
        mixed = grouped_query_attention(q, k, v, probabilities)                # [..., n_heads, T, head_dim]
        h = x + linear(merge_heads(mixed), w["wo"])                            # [..., T, dim]
        f = rms_norm(h, w["ffn_norm"], c.norm_eps)
        out = h + swiglu(f, w["w_gate"], w["w_up"], w["w_down"], hidden)
        if keep is not None:
            keep |= {"x": x, "a": a, "q": q, "k": k, "v": v, "probabilities": probabilities, "mixed": mixed,
                     "h": h, "f": f, "hidden": hidden, "out": out}
        return out

    def block_backward(self, i, dout, kept, cos, sin):
        """dout [..., T, dim] → dx [..., T, dim] and the gradients of layer i's weights by short name."""
        c, w, s = self.config, self.layer(i), kept
        d = {}
        df, d["w_gate"], d["w_up"], d["w_down"] = swiglu_backward(dout, s["f"], w["w_gate"], w["w_up"], w["w_down"], s["hidden"])
        dh, d["ffn_norm"] = rms_norm_backward(df, s["h"], w["ffn_norm"], c.norm_eps)
        dh += dout
        dmixed, d["wo"] = linear_backward(dh, merge_heads(s["mixed"]), w["wo"])
        dq, dk, dv = grouped_query_attention_backward(split_heads(dmixed, c.n_heads), s["mixed"], s["q"], s["k"], s["v"], s["probabilities"])
        da_q, d["wq"] = linear_backward(merge_heads(apply_rope_backward(dq, cos, sin)), s["a"], w["wq"])
        da_k, d["wk"] = linear_backward(merge_heads(apply_rope_backward(dk, cos, sin)), s["a"], w["wk"])
        da_v, d["wv"] = linear_backward(merge_heads(dv), s["a"], w["wv"])
        dx, d["attn_norm"] = rms_norm_backward(da_q + da_k + da_v, s["x"], w["attn_norm"], c.norm_eps)
        return dx + dh, d

    def loss_and_grads(self, ids, targets):
        """The summed loss of the tokens to be predicted and its gradient for every weight.

        ids, targets [..., T], targets −1 where nothing is to be predicted → float, {short name: array}.
        """
        ids, targets = self.check(ids, 0, None), np.asarray(targets)
        if targets.dtype.kind not in "iu" or targets.shape != ids.shape or targets.min() < -1 or targets.max() >= self.config.vocab_size:
            raise ValueError(f"targets must be whole numbers {list(ids.shape)} from -1 to {self.config.vocab_size - 1}, "
                             f"not {targets.dtype} {list(targets.shape)} from {targets.min()} to {targets.max()}")
        cos, sin = self.rotations(0, ids.shape[-1])
        x, trace = embed(ids, self.weights["embedding"]), []
        for i in range(self.config.n_layers):
            trace.append({})
            x = self.block(i, x, cos, sin, keep=trace[i])
        normed = rms_norm(x, self.weights["final_norm"], self.config.norm_eps)
        logits = linear(normed, self.lm_head)
        loss = cross_entropy(logits, targets)

        grads = {}
        dlogits = cross_entropy_backward(np.ones_like(loss), logits, targets, out=logits)
        dnormed, dlm_head = linear_backward(dlogits, normed, self.lm_head)
        dx, grads["final_norm"] = rms_norm_backward(dnormed, x, self.weights["final_norm"], self.config.norm_eps)
        for i in reversed(range(self.config.n_layers)):
            dx, layer_grads = self.block_backward(i, dx, trace.pop(), cos, sin)
            grads |= {f"layers.{i}.{name}": grad for name, grad in layer_grads.items()}
        grads["embedding"] = embed_backward(dx, ids, self.weights["embedding"])
        if self.config.tied:
            grads["embedding"] += dlm_head
        else:
            grads["lm_head"] = dlm_head
        return float(loss.sum(dtype=np.float64)), grads

    @property
    def lm_head(self):
        """[vocab_size, dim], the embedding itself when tied."""
        return self.weights["embedding" if self.config.tied else "lm_head"]

    def layer(self, i):
        """The weights of layer i by their short names."""
        return {name: self.weights[f"layers.{i}.{name}"] for name in
                ("attn_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w_gate", "w_up", "w_down")}

    def rotations(self, start_pos, T):
        """cos and sin [T, head_dim] of RoPE's angles at positions start_pos … start_pos + T − 1."""
        angles = rope_angles(np.arange(start_pos, start_pos + T), self.config.head_dim, self.config.theta_base)
        return rope_tables(angles, self.dtype)

    def check(self, ids, start_pos, cache):
        ids, c = np.asarray(ids), self.config
        if ids.dtype.kind not in "iu" or ids.ndim == 0 or ids.size == 0:
            raise ValueError(f"ids must be whole numbers [..., T] with T of 1 or more, not {ids.dtype} {list(ids.shape)}")
        if ids.min() < 0 or ids.max() >= c.vocab_size:
            raise ValueError(f"token ids run from {ids.min()} to {ids.max()}; this model knows 0 to {c.vocab_size - 1}")
        room = c.max_seq_len if cache is None else min(c.max_seq_len, cache.max_seq_len)
        if start_pos + ids.shape[-1] > room:
            raise ValueError(f"{start_pos + ids.shape[-1]} tokens do not fit: this {'model' if cache is None else 'cache'} "
                             f"holds {room} positions; shorten the text")
        return ids
