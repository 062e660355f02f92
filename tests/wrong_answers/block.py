"""06, the block: exercise, wrong answer, part of the hint that it gets."""

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def silu(z):
    return z * sigmoid(z)


def slope(z):
    return sigmoid(z) + z * sigmoid(z) * (1 - sigmoid(z))


def layer(middle):
    return lambda x, w_gate, w_up, w_down: middle(x @ w_gate.T, x @ w_up.T) @ w_down.T


def gradients(slope=slope, for_gate=lambda u: u, for_up=silu, hidden=lambda z, u: silu(z) * u,
              for_x=lambda dz, du, w_gate, w_up: dz @ w_gate + du @ w_up, order=lambda *four: four):
    def answer(dy, x, w_gate, w_up, w_down):
        z, u = x @ w_gate.T, x @ w_up.T
        da = dy @ w_down
        dz, du = da * for_gate(u) * slope(z), da * for_up(z)
        return order(for_x(dz, du, w_gate, w_up), dz.T @ x, du.T @ x, dy.T @ hidden(z, u))
    return answer


def block(attention_line=1, ffn_line=1, reads=lambda x, h: h, onto=lambda x, h: h, norm_attn=True, norm_ffn=True, exchanged=False):
    def answer(x, attention, feed_forward, attn_norm, ffn_norm, eps):
        if exchanged:
            attn_norm, ffn_norm = ffn_norm, attn_norm
        h = attention_line * x + attention(norm(x, attn_norm, eps) if norm_attn else x)
        read = reads(x, h)
        return ffn_line * onto(x, h) + feed_forward(norm(read, ffn_norm, eps) if norm_ffn else read)
    return answer


def norm(x, weight, eps):
    return x / np.sqrt(np.mean(x ** 2, axis=-1, keepdims=True) + eps) * weight


def post_norm(x, attention, feed_forward, attn_norm, ffn_norm, eps):
    h = norm(x + attention(x), attn_norm, eps)
    return norm(h + feed_forward(h), ffn_norm, eps)


def on_the_stream(x, attention, feed_forward, attn_norm, ffn_norm, eps):
    x = norm(x, attn_norm, eps)
    return (h := x + attention(x)) + feed_forward(norm(h, ffn_norm, eps))


def both_on_the_stream(x, attention, feed_forward, attn_norm, ffn_norm, eps):
    x = norm(x, attn_norm, eps)
    h = norm(x + attention(x), ffn_norm, eps)
    return h + feed_forward(h)


def norms_behind(x, attention, feed_forward, attn_norm, ffn_norm, eps):
    h = x + norm(attention(x), attn_norm, eps)
    return h + norm(feed_forward(h), ffn_norm, eps)


def swapped_halves(x, attention, feed_forward, attn_norm, ffn_norm, eps):
    return block()(x, feed_forward, attention, ffn_norm, attn_norm, eps)


def in_place(x, attention, feed_forward, attn_norm, ffn_norm, eps):
    x += attention(norm(x, attn_norm, eps))
    x += feed_forward(norm(x, ffn_norm, eps))
    return x


WRONG = [
    ("swiglu_by_heart", layer(lambda z, u: z * silu(u)), "exchanged"),
    ("swiglu_by_heart", layer(lambda z, u: sigmoid(z) * u), "which is GLU"),
    ("swiglu_by_heart", layer(lambda z, u: np.maximum(z, 0) * u), "That is ReLU"),
    ("swiglu_by_heart", layer(lambda z, u: silu(z * u)), "around the product"),
    ("swiglu_by_heart", layer(lambda z, u: silu(z) + u), "multiply them"),
    ("swiglu_by_heart", layer(lambda z, u: silu(z)), "up projection is missing"),
    ("swiglu_by_heart", layer(lambda z, u: z * u), "silu is missing"),
    ("swiglu_by_heart", layer(lambda z, u: silu(z) * silu(u)), "around up, too"),
    ("swiglu_by_heart", lambda x, w_gate, w_up, w_down: silu(x @ w_gate.T) * (x @ w_up.T), "way back by w_down"),
    ("swiglu_by_heart", layer(lambda z, u: z * sigmoid(1.702 * z) * u), "Not right yet"),
    ("swiglu_by_heart", lambda *arguments: None, "return"),
    ("swiglu_by_heart", lambda x, *w: layer(lambda z, u: silu(z) * u)(x.reshape(-1, 4), *w), "Not right yet"),
    ("swiglu_gradients", gradients(slope=lambda z: 1), "lacks the slope"),
    ("swiglu_gradients", gradients(slope=sigmoid), "second term"),
    ("swiglu_gradients", gradients(slope=lambda z: z * sigmoid(z) * (1 - sigmoid(z))), "first term"),
    ("swiglu_gradients", gradients(slope=lambda z: sigmoid(z) * (1 - sigmoid(z))), "slope of the sigmoid"),
    ("swiglu_gradients", gradients(for_gate=lambda u: 1), "dw_gate lacks up"),
    ("swiglu_gradients", gradients(for_up=lambda z: 1), "dw_up lacks the gate"),
    ("swiglu_gradients", gradients(for_up=sigmoid), "multiplied by sigmoid"),
    ("swiglu_gradients", gradients(hidden=lambda z, u: silu(z)), "dw_down lacks the up"),
    ("swiglu_gradients", gradients(hidden=lambda z, u: z * u), "dw_down lacks silu"),
    ("swiglu_gradients", gradients(for_x=lambda dz, du, w_gate, w_up: dz @ w_gate), "comes through up"),
    ("swiglu_gradients", gradients(for_x=lambda dz, du, w_gate, w_up: du @ w_up), "comes through the gate"),
    ("swiglu_gradients", gradients(for_x=lambda dz, du, w_gate, w_up: dz @ w_up + du @ w_gate), "matrices are exchanged"),
    ("swiglu_gradients", gradients(for_x=lambda dz, du, w_gate, w_up: dz @ w_gate - du @ w_up), "Not right yet"),
    ("swiglu_gradients", gradients(order=lambda dx, g, u, d: (dx, u, g, d)), "dw_gate and dw_up are exchanged"),
    ("swiglu_gradients", gradients(order=lambda dx, g, u, d: (dx, g.T, u, d)), "dw_gate is transposed"),
    ("swiglu_gradients", gradients(order=lambda dx, g, u, d: (dx, g, u.T, d)), "dw_up is transposed"),
    ("swiglu_gradients", gradients(order=lambda dx, g, u, d: (dx, g, u, d.T)), "dw_down is transposed"),
    ("swiglu_gradients", gradients(order=lambda dx, g, u, d: dx), "four arrays"),
    ("pre_norm_block", block(reads=lambda x, h: x), "should read h"),
    ("pre_norm_block", block(ffn_line=0), "The feed-forward layer replaces"),
    ("pre_norm_block", block(attention_line=0), "Attention replaces"),
    ("pre_norm_block", block(attention_line=0, ffn_line=0), "Both layers replace"),
    ("pre_norm_block", block(onto=lambda x, h: x), "goes back to x"),
    ("pre_norm_block", post_norm, "That is post-norm"),
    ("pre_norm_block", block(norm_attn=False, norm_ffn=False), "No norm"),
    ("pre_norm_block", on_the_stream, "The norm is on the stream"),
    ("pre_norm_block", both_on_the_stream, "Both norms are on the stream"),
    ("pre_norm_block", norms_behind, "stand behind the layers"),
    ("pre_norm_block", block(exchanged=True), "weights are exchanged"),
    ("pre_norm_block", block(norm_ffn=False), "h without its norm"),
    ("pre_norm_block", block(norm_attn=False), "x without its norm"),
    ("pre_norm_block", swapped_halves, "before attention"),
    ("pre_norm_block", in_place, "was changed"),
    ("pre_norm_block", block(ffn_line=2), "Not right yet"),
    ("pre_norm_block", lambda *arguments: None, "return"),
]
