"""06, the block."""

import numpy as np

from ..ops import rms_norm, sigmoid, silu, silu_backward, swiglu, swiglu_backward
from . import exercise, expect


def example():
    """dy and x [T, dim], w_gate, w_up [hidden_dim, dim], w_down [dim, hidden_dim], unequal sizes."""
    rng = np.random.default_rng(6)
    return *rng.standard_normal((2, 5, 4)), *rng.standard_normal((2, 7, 4)), rng.standard_normal((4, 7))


@exercise
def swiglu_by_heart(fn):
    _, x, w_gate, w_up, w_down = example()
    z, u = x @ w_gate.T, x @ w_up.T
    expect(fn(x.copy(), w_gate, w_up, w_down), swiglu(x, w_gate, w_up, w_down), {
        "Gate and up are exchanged: silu belongs around x w_gateᵀ.": (z * silu(u)) @ w_down.T,
        "The gate is only a sigmoid, which is GLU; silu(z) is z · sigmoid(z).": (sigmoid(z) * u) @ w_down.T,
        "That is ReLU; silu(z) is z · sigmoid(z).": (np.maximum(z, 0) * u) @ w_down.T,
        "silu belongs around the gate alone, not around the product.": silu(z * u) @ w_down.T,
        "Gate and up are added; multiply them.": (silu(z) + u) @ w_down.T,
        "The up projection is missing.": silu(z) @ w_down.T,
        "silu is missing: that multiplies gate and up as they are.": (z * u) @ w_down.T,
        "silu went around up, too.": (silu(z) * silu(u)) @ w_down.T,
        "The way back by w_down is missing.": silu(z) * u,
    })
    batch = np.stack([x, 2 * x, -x])                                           # [3, T, dim]
    expect(fn(batch.copy(), w_gate, w_up, w_down), swiglu(batch, w_gate, w_up, w_down))


@exercise
def swiglu_gradients(fn):
    dy, x, w_gate, w_up, w_down = arguments = example()
    z, u = kept = x @ w_gate.T, x @ w_up.T
    gate, da = sigmoid(z), dy @ w_down
    dx, dw_gate, dw_up, dw_down = swiglu_backward(*arguments, kept)
    got = fn(dy.copy(), x.copy(), w_gate, w_up, w_down)
    if not isinstance(got, tuple) or len(got) != 4:
        raise AssertionError("Give back four arrays: `return dx, dw_gate, dw_up, dw_down`.")
    dz, du = silu_backward(da * u, z), da * silu(z)
    expect(got[3], dw_down, {
        "dw_down is transposed; like w_down it is [dim, hidden_dim].": dw_down.T,
        "dw_down lacks the up projection: w_down was given silu(z) · u.": dy.T @ silu(z),
        "dw_down lacks silu: w_down was given silu(z) · u.": dy.T @ (z * u)})
    expect(got[2], dw_up, {
        "dw_up is transposed; like w_up it is [hidden_dim, dim].": dw_up.T,
        "dw_up lacks the gate: up was multiplied by silu(z).": da.T @ x,
        "dw_up was multiplied by sigmoid(z); up was multiplied by silu(z).": (da * gate).T @ x,
        "dw_gate and dw_up are exchanged.": dw_gate})
    expect(got[1], dw_gate, {
        "dw_gate is transposed; like w_gate it is [hidden_dim, dim].": dw_gate.T,
        "dw_gate lacks up: the gate was multiplied by it.": silu_backward(da, z).T @ x,
        "dw_gate lacks the slope of silu.": (da * u).T @ x,
        "The slope of silu lacks its second term, z σ (1 − σ).": (da * u * gate).T @ x,
        "The slope of silu lacks its first term, σ.": (da * u * z * gate * (1 - gate)).T @ x,
        "That is the slope of the sigmoid; silu's is σ + z σ (1 − σ).": (da * u * gate * (1 - gate)).T @ x})
    expect(got[0], dx, {
        "dx lacks what comes through up: x was used twice.": dz @ w_gate,
        "dx lacks what comes through the gate: x was used twice.": du @ w_up,
        "In dx the matrices are exchanged.": dz @ w_up + du @ w_gate})


@exercise
def pre_norm_block(fn):
    rng, eps = np.random.default_rng(8), 0.3
    x, a, b = rng.standard_normal((5, 6)) + 1, *rng.standard_normal((2, 6, 6))
    attn, ffn = rng.standard_normal((2, 6))

    def mix(x):                                                                # each token adds up those before it
        return np.tri(5) @ x @ a

    def each(x):
        return silu(x @ b)

    def norm(x, weight):
        return rms_norm(x, weight, eps)

    h = x + mix(norm(x, attn))
    got = fn(given := x.copy(), mix, each, attn, ffn, eps)
    if not np.array_equal(given, x):
        raise AssertionError("The given x was changed: write `h = x + …`, not `x += …`.")
    post, behind, on_line = norm(x + mix(x), attn), x + norm(mix(x), attn), norm(norm(x, attn) + mix(norm(x, attn)), ffn)
    expect(got, h + each(norm(h, ffn)), {
        "The feed-forward layer reads x; it should read h, where attention has written.": h + each(norm(x, ffn)),
        "The feed-forward layer replaces the stream; add it to h.": each(norm(h, ffn)),
        "Attention replaces the stream; add it to x.": mix(norm(x, attn)) + each(norm(mix(norm(x, attn)), ffn)),
        "Both layers replace the stream: add attention to x, and the feed-forward layer to h.": each(norm(mix(norm(x, attn)), ffn)),
        "The second sum goes back to x, and attention's write is lost; add to h.": x + each(norm(h, ffn)),
        "That is post-norm; Llama's norms stand before the layers.": norm(post + each(post), ffn),
        "The norms stand behind the layers; Llama's stand before them.": behind + norm(each(behind), ffn),
        "Both norms are on the stream: only what a layer reads is normalized.": on_line + each(on_line),
        "No norm: each layer reads a normalized copy.": x + mix(x) + each(x + mix(x)),
        "The norm is on the stream: only what the layer reads is normalized.": norm(x, attn) + mix(norm(x, attn)) + each(norm(norm(x, attn) + mix(norm(x, attn)), ffn)),
        "The norms' weights are exchanged.": x + mix(norm(x, ffn)) + each(norm(x + mix(norm(x, ffn)), attn)),
        "The feed-forward layer reads h without its norm.": h + each(h),
        "Attention reads x without its norm.": x + mix(x) + each(norm(x + mix(x), ffn)),
        "The feed-forward layer stands before attention.": x + each(norm(x, ffn)) + mix(norm(x + each(norm(x, ffn)), attn)),
    })
