"""02, RMSNorm: exercise, wrong answer, part of the hint that it gets."""

import numpy as np

import minillama as ml


def norm(x, weight, eps, divisor):
    """The right norm with another divisor, in float32 as it must be."""
    wide = x.astype(np.float32) if x.dtype == np.float16 else x
    return (wide / divisor(wide, eps) * weight).astype(x.dtype)


def root(x, eps):
    return np.sqrt(np.mean(x ** 2, axis=-1, keepdims=True) + eps)


def with_divisor(divisor):
    return lambda x, weight, eps: norm(x, weight, eps, divisor)


def centered(x, weight, eps):
    return norm(x - x.mean(axis=-1, keepdims=True), weight, eps, root)


def gradients(dy, x, weight, eps, sign=-1, times_weight=True, over_r=True, reduce=np.mean, project=None, axis=-1, dweight=None):
    r = root(x, eps)
    x_hat, dx_hat = x / r, dy * weight if times_weight else dy
    project = x_hat if project is None else project(x)
    dx = dx_hat + sign * project * reduce(dx_hat * project, axis=axis, keepdims=True)
    return dx / r if over_r else dx, np.sum(dy * x_hat, axis=0) if dweight is None else dweight(dy, x, x_hat, weight)


def wrong_gradients(**mistake):
    return lambda dy, x, weight, eps: gradients(dy, x, weight, eps, **mistake)


def fold(llama, attn=("wq", "wk", "wv"), ffn=("w_gate", "w_up"), power=1, ones=("attn_norm", "ffn_norm"), weights=None):
    weights = dict(llama.weights) if weights is None else weights
    for i in range(llama.config.n_layers):
        for kind, matrices in (("attn_norm", attn), ("ffn_norm", ffn)):
            scale = weights[f"layers.{i}.{kind}"]
            weights |= {f"layers.{i}.{name}": weights[f"layers.{i}.{name}"] * scale ** power for name in matrices}
            if kind in ones:
                weights[f"layers.{i}.{kind}"] = np.ones_like(scale)
    return ml.Llama(llama.config, weights)


def fold_in_place(llama):
    folded = fold(llama)
    for name, weight in llama.weights.items():
        weight[...] = folded.weights[name]
    return llama


def wrong_fold(**mistake):
    return lambda llama: fold(llama, **mistake)


WRONG = [
    ("rms_norm_by_heart", centered, "only divides"),
    ("rms_norm_by_heart", with_divisor(lambda x, eps: np.sqrt(x.var(axis=-1, keepdims=True) + eps)), "standard deviation"),
    ("rms_norm_by_heart", with_divisor(lambda x, eps: np.sqrt(np.mean(x ** 2, axis=0) + eps)), "over the tokens"),
    ("rms_norm_by_heart", with_divisor(lambda x, eps: np.sqrt(np.mean(x ** 2) + eps)), "One mean for all"),
    ("rms_norm_by_heart", with_divisor(lambda x, eps: root(x, 0) + eps), "belongs under it"),
    ("rms_norm_by_heart", with_divisor(lambda x, eps: root(x, 0)), "eps is missing"),
    ("rms_norm_by_heart", lambda x, weight, eps: norm(x, 1, eps, root), "weight is missing"),
    ("rms_norm_by_heart", with_divisor(lambda x, eps: np.sqrt(np.sum(x ** 2, axis=-1, keepdims=True) + eps)), "sum of the squares"),
    ("rms_norm_by_heart", with_divisor(lambda x, eps: root(x, eps) ** 2), "root is missing"),
    ("rms_norm_by_heart", with_divisor(lambda x, eps: root(x, 2 * eps)), "Not right yet"),
    ("rms_norm_by_heart", lambda x, weight, eps: None, "return"),
    ("rms_norm_by_heart", lambda x, weight, eps: (x / root(x, eps) * weight).astype(x.dtype), "infinite in float16"),
    ("rms_norm_by_heart", lambda x, weight, eps: norm(x.astype(np.float64), weight, eps, root), "came out"),
    ("rms_norm_gradients", wrong_gradients(sign=0), "points along x"),
    ("rms_norm_gradients", wrong_gradients(times_weight=False), "lacks the weight"),
    ("rms_norm_gradients", wrong_gradients(over_r=False), "division by r"),
    ("rms_norm_gradients", wrong_gradients(reduce=np.sum), "not the sum"),
    ("rms_norm_gradients", wrong_gradients(axis=None), "each token has its own"),
    ("rms_norm_gradients", wrong_gradients(project=lambda x: x), "where x_hat belongs"),
    ("rms_norm_gradients", wrong_gradients(sign=1), "was added"),
    ("rms_norm_gradients", lambda dy, x, weight, eps: (weight * gradients(dy, x, 1, eps)[0], gradients(dy, x, weight, eps)[1]), "too late"),
    ("rms_norm_gradients", lambda dy, x, weight, eps: gradients(dy, x, weight, eps)[::-1], "dx first"),
    ("rms_norm_gradients", wrong_gradients(sign=0.5), "Not right yet"),
    ("rms_norm_gradients", wrong_gradients(dweight=lambda dy, x, x_hat, weight: dy * x_hat), "one row per token"),
    ("rms_norm_gradients", wrong_gradients(dweight=lambda dy, x, x_hat, weight: np.mean(dy * x_hat, axis=0)), "it is their sum"),
    ("rms_norm_gradients", wrong_gradients(dweight=lambda dy, x, x_hat, weight: np.sum(dy * x, axis=0)), "made with x;"),
    ("rms_norm_gradients", wrong_gradients(dweight=lambda dy, x, x_hat, weight: np.sum(dy * weight * x_hat, axis=0)), "made with y"),
    ("rms_norm_gradients", lambda dy, x, weight, eps: gradients(dy, x, weight, eps)[0], "two arrays"),
    ("rms_norm_gradients", lambda dy, x, weight, eps: None, "two arrays"),
    ("fold_norms", wrong_fold(attn=(), ffn=()), "no matrix has taken"),
    ("fold_norms", wrong_fold(power=-1), "multiply"),
    ("fold_norms", wrong_fold(attn=("wq",)), "wk and wv read"),
    ("fold_norms", wrong_fold(attn=("wq", "wk")), "wv reads"),
    ("fold_norms", wrong_fold(ffn=("w_gate",)), "w_up reads"),
    ("fold_norms", wrong_fold(ffn=("w_up",)), "w_gate reads"),
    ("fold_norms", wrong_fold(ffn=()), "ffn_norm was not folded"),
    ("fold_norms", wrong_fold(attn=()), "attn_norm was not folded"),
    ("fold_norms", wrong_fold(attn=("wk", "wv")), "Not right yet"),
    ("fold_norms", wrong_fold(ones=("attn_norm",)), "ffn_norm is not all ones"),
    ("fold_norms", fold_in_place, "was changed"),
    ("fold_norms", lambda llama: fold(llama, weights=llama.weights), "was changed"),
    ("fold_norms", lambda llama: fold(llama).weights, "Give back a model"),
]
