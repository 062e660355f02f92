"""The functions that a Llama is made of, each followed by its backward pass.

`d` before a name is the gradient of the loss with respect to it: `dy` comes in, `dx` goes out.
All functions keep the dtype of their input and take any leading axes.
"""

import numpy as np


def linear(x, weight):
    """`y = x Wᵀ`. x [..., n_in], weight [n_out, n_in] → [..., n_out]."""
    if x.ndim > 2:                                                   # one product for all texts reads W once, not for each text
        return linear(x.reshape(-1, x.shape[-1]), weight).reshape(*x.shape[:-1], len(weight))
    return x @ weight.T


def linear_backward(dy, x, weight):
    """dy [..., n_out] → dx [..., n_in], dweight [n_out, n_in]."""
    rows = dy.reshape(-1, dy.shape[-1])                              # [N, n_out]
    return (rows @ weight).reshape(x.shape), rows.T @ x.reshape(-1, x.shape[-1])


def rms_norm(x, weight, eps):
    """`y = x / sqrt(mean(x²) + eps) · weight`, the mean over the features of one token.

    x [..., dim], weight [dim] → [..., dim]. Half precision is computed in float32, where
    the squares cannot overflow, and returned in half precision.
    Source: Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4; eps as in Llama's code.
    """
    if x.dtype == np.float16:
        return rms_norm(x.astype(np.float32), weight, eps).astype(np.float16)
    return x * inverse_rms(x, eps) * weight


def inverse_rms(x, eps):
    """`1 / sqrt(mean(x²) + eps)`, the sum of squares as a dot product. x [..., dim] → [..., 1]."""
    return 1 / np.sqrt(np.vecdot(x, x)[..., None] / x.shape[-1] + eps)


def rms_norm_backward(dy, x, weight, eps):
    """dy [..., dim] → dx [..., dim], dweight [dim]. What points along x is removed from the gradient."""
    scale = inverse_rms(x, eps)
    x_hat = x * scale
    dx_hat = dy * weight
    dx = scale * (dx_hat - x_hat * (np.vecdot(dx_hat, x_hat)[..., None] / x.shape[-1]))
    return dx, (dy * x_hat).reshape(-1, x.shape[-1]).sum(axis=0)


def softmax(x, out=None):
    """`exp(x) / sum(exp(x))` over the last axis, with the largest entry subtracted first so that exp cannot overflow.

    out: where to write the result, x itself if it is not needed any more.
    """
    y = np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
    np.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)
    return y


def softmax_backward(dy, y):
    """dy and the softmax y [..., n] → dx [..., n]."""
    return y * (dy - np.vecdot(dy, y)[..., None])


def sigmoid(z):
    """`1 / (1 + exp(−z))`, written with tanh, which cannot overflow; in one array, since fetching memory takes longer than tanh."""
    y = 0.5 * z
    np.tanh(y, out=y)
    y *= 0.5
    y += 0.5
    return y


def silu(z):
    """`z · sigmoid(z)`. Source: Shazeer 2020, arXiv:2002.05202 (Swish with β = 1)."""
    return z * sigmoid(z)


def silu_backward(dy, z):
    """dy → dz, all of one shape."""
    gate = sigmoid(z)
    return dy * (gate + z * gate * (1 - gate))


def swiglu(x, w_gate, w_up, w_down, keep=None):
    """The feed-forward layer, `(silu(x W_gateᵀ) ⊙ (x W_upᵀ)) W_downᵀ`.

    x [..., dim], w_gate and w_up [hidden_dim, dim], w_down [dim, hidden_dim] → [..., dim].
    keep: a list, to which the gate before silu and the up projection are added for the backward pass.
    Source: Shazeer 2020, arXiv:2002.05202, eq. 6.
    """
    gate, up = linear(x, w_gate), linear(x, w_up)                    # [..., hidden_dim]
    if keep is not None:
        keep += [gate, up]
    return linear(silu(gate) * up, w_down)


def swiglu_backward(dy, x, w_gate, w_up, w_down, kept):
    """dy [..., dim] → dx [..., dim], dw_gate, dw_up, dw_down."""
    gate, up = kept
    opened = silu(gate)
    dhidden, dw_down = linear_backward(dy, opened * up, w_down)
    dx_up, dw_up = linear_backward(dhidden * opened, x, w_up)
    dx_gate, dw_gate = linear_backward(silu_backward(dhidden * up, gate), x, w_gate)
    return dx_gate + dx_up, dw_gate, dw_up, dw_down


def embed(ids, weight):
    """Row `id` of the table for every id. ids [...], weight [vocab_size, dim] → [..., dim]."""
    return weight[ids]


def embed_backward(dy, ids, weight):
    """dy [..., dim] → dweight [vocab_size, dim]: each row collects the gradients of the places where its id stood."""
    dweight = np.zeros_like(weight)
    order = np.argsort(ids, axis=None, kind="stable")                # equal ids side by side, so that each run is one sum
    unique, first = np.unique(ids.reshape(-1)[order], return_index=True)
    dweight[unique] = np.add.reduceat(dy.reshape(-1, dy.shape[-1])[order], first, axis=0)
    return dweight


def cross_entropy(logits, targets):
    """`−log softmax(logits)[target]` of every token. logits [..., vocab_size], targets [...] → [...]; 0 where target is −1."""
    top = logits.max(axis=-1)
    shifted = logits - top[..., None]
    log_sum = top + np.log(np.exp(shifted, out=shifted).sum(axis=-1))
    chosen = np.take_along_axis(logits, np.maximum(targets, 0)[..., None], axis=-1)[..., 0]
    return np.where(targets >= 0, log_sum - chosen, logits.dtype.type(0))


def cross_entropy_backward(dy, logits, targets, out=None):
    """dy [...] → dlogits [..., vocab_size]: the probabilities, less one at the target; out as in `softmax`."""
    dlogits = softmax(logits, out)
    at = np.maximum(targets, 0)[..., None]
    np.put_along_axis(dlogits, at, np.take_along_axis(dlogits, at, axis=-1) - 1, axis=-1)
    dlogits *= np.where(targets >= 0, dy, 0).astype(logits.dtype)[..., None]
    return dlogits
