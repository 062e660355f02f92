"""02, RMSNorm."""

import numpy as np

from ..config import LlamaConfig
from ..model import Llama, random_weights
from . import exercise, expect


def example():
    """dy and x [T, dim] whose means are far from 0, weight [dim] and an eps too large to be overlooked."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((5, 7)), rng.standard_normal((5, 7)) + 1, rng.standard_normal(7), 0.3


@exercise
def rms_norm_by_heart(fn):
    _, x, weight, eps = example()
    square = np.mean(x ** 2, axis=-1, keepdims=True)
    centered = x - x.mean(axis=-1, keepdims=True)
    expect(fn(x.copy(), weight, eps), x / np.sqrt(square + eps) * weight, {
        "The mean was subtracted; RMSNorm only divides.": centered / np.sqrt(np.mean(centered ** 2, axis=-1, keepdims=True) + eps) * weight,
        "That divides by the standard deviation; the root of the mean square is wanted.": x / np.sqrt(x.var(axis=-1, keepdims=True) + eps) * weight,
        "The mean ran over the tokens; it belongs to the features of one token, `axis=-1`.": x / np.sqrt(np.mean(x ** 2, axis=0) + eps) * weight,
        "One mean for all tokens; each has its own, `axis=-1, keepdims=True`.": x / np.sqrt(np.mean(x ** 2) + eps) * weight,
        "eps was added to the root; it belongs under it.": x / (np.sqrt(square) + eps) * weight,
        "eps is missing.": x / np.sqrt(square) * weight,
        "The weight is missing.": x / np.sqrt(square + eps),
        "That is the sum of the squares; their mean is wanted.": x / np.sqrt(7 * square + eps) * weight,
        "The root is missing: that divides by the mean square itself.": x / (square + eps) * weight,
    })
    half = np.full((2, 3), 300, np.float16)
    with np.errstate(all="ignore"):
        got = fn(half.copy(), np.ones(3, np.float32), 1e-5)
    expect(got, np.ones((2, 3), np.float16), {"300² is infinite in float16: square in float32.": 0 * half})
    if np.asarray(got).dtype != np.float16:
        raise AssertionError(f"The numbers are right, but float16 went in and {np.asarray(got).dtype} came out.")


@exercise
def rms_norm_gradients(fn):
    dy, x, weight, eps = example()
    r = np.sqrt(np.mean(x ** 2, axis=-1, keepdims=True) + eps)
    x_hat, dx_hat = x / r, dy * weight
    along = np.mean(dx_hat * x_hat, axis=-1, keepdims=True)
    got = fn(dy.copy(), x.copy(), weight, eps)
    if not isinstance(got, tuple) or len(got) != 2:
        raise AssertionError("Give back two arrays: `return dx, dweight`.")
    expect(got[0], (dx_hat - x_hat * along) / r, {
        "dx still holds what points along x.": dx_hat / r,
        "dx lacks the weight: what comes to x_hat is `dy * weight`.": (dy - x_hat * np.mean(dy * x_hat, axis=-1, keepdims=True)) / r,
        "dx lacks the division by r.": dx_hat - x_hat * along,
        "Too much is taken from dx: the mean of `dx_hat * x_hat`, not the sum.": (dx_hat - x_hat * 7 * along) / r,
        "One mean over all tokens; each token has its own.": (dx_hat - x_hat * np.mean(dx_hat * x_hat)) / r,
        "x stands where x_hat belongs; what is taken away is x_hat times its mean product.": (dx_hat - x * np.mean(dx_hat * x, axis=-1, keepdims=True)) / r,
        "What is taken away from dx was added.": (dx_hat + x_hat * along) / r,
        "The weight came too late: `dy * weight` first, then its part along x is taken away.": (dy - x_hat * np.mean(dy * x_hat, axis=-1, keepdims=True)) * weight / r,
        "That is dweight: give back dx first, then dweight.": np.sum(dy * x_hat, axis=0),
    })
    expect(got[1], np.sum(dy * x_hat, axis=0), {
        "dweight is still one row per token; the tokens share the weight, so add their rows up.": dy * x_hat,
        "dweight is the mean over the tokens; it is their sum.": np.mean(dy * x_hat, axis=0),
        "dweight was made with x; the weight multiplies x_hat.": np.sum(dy * x, axis=0),
        "dweight was made with y, which has the weight in it already.": np.sum(dx_hat * x_hat, axis=0),
    })


@exercise
def fold_norms(fn):
    config = LlamaConfig(dim=48, n_layers=2, n_heads=8, n_kv_heads=2, head_dim=10, hidden_dim=76, vocab_size=96,
                         max_seq_len=32, norm_eps=1e-5, theta_base=10000.0, tied=False)
    rng, behind = np.random.default_rng(0), {"attn_norm": ("wq", "wk", "wv"), "ffn_norm": ("w_gate", "w_up")}
    weights = {name: w * (rng.random(w.shape) + 0.5) for name, w in random_weights(config, 0, np.float64).items()}

    def logits(behind, power=1):
        """Of the model with the norms' weights multiplied into the matrices that are named, and then set to 1."""
        folded = {name: np.ones_like(w) if name.endswith(("attn_norm", "ffn_norm")) else w for name, w in weights.items()}
        for i in range(config.n_layers):
            folded |= {f"layers.{i}.{name}": weights[f"layers.{i}.{name}"] * weights[f"layers.{i}.{norm}"] ** power
                       for norm, matrices in behind.items() for name in matrices}
        return Llama(config, folded)([3, 1, 4, 1, 5])

    got = fn(Llama(config, given := {name: w.copy() for name, w in weights.items()}))
    if not isinstance(got, Llama):
        raise AssertionError("Give back a model: `ml.Llama(llama.config, weights)`.")
    if any(given.keys() != weights.keys() or not np.array_equal(given[name], w) for name, w in weights.items()):
        raise AssertionError("The given model was changed; make a new dictionary and new arrays.")
    if kept := [name for name, w in got.weights.items() if name.endswith(("attn_norm", "ffn_norm")) and not (w == 1).all()]:
        raise AssertionError(f"{kept[0]} is not all ones.")
    expect(got([3, 1, 4, 1, 5]), logits(behind), {
        "The norms' weights are gone, but no matrix has taken them in.": logits({}),
        "That divides; the matrices must do what the weight did, and multiply.": logits(behind, -1),
        "wk and wv read the normalized x too.": logits(behind | {"attn_norm": ("wq",)}),
        "wv reads the normalized x too.": logits(behind | {"attn_norm": ("wq", "wk")}),
        "w_up reads the normalized h too.": logits(behind | {"ffn_norm": ("w_gate",)}),
        "w_gate reads the normalized h too.": logits(behind | {"ffn_norm": ("w_up",)}),
        "ffn_norm was not folded into w_gate and w_up.": logits(behind | {"ffn_norm": ()}),
        "attn_norm was not folded into wq, wk and wv.": logits(behind | {"attn_norm": ()}),
    })
