"""Rotary position embedding: plane i of a query or key at position m is turned by the angle m · theta_i.

Source: Su et al. 2021, arXiv:2104.09864, eq. 12–16 and 34.

Which numbers form a plane is a convention. *half-split*, as in Hugging Face files and everywhere
inside this package: (x_i, x_{i + head_dim/2}). *interleaved*, as in the paper, in Meta's files and in
GGUF: (x_2i, x_2i+1). A checkpoint works only with the layout that it was trained with.
"""

import numpy as np


def rope_angles(positions, head_dim, theta_base):
    """`m · theta_i` with `theta_i = theta_base^(−2i / head_dim)`. positions [T] → angles [T, head_dim/2], radians, float64."""
    theta = theta_base ** (-np.arange(0, head_dim, 2) / head_dim)    # [head_dim/2]
    return np.multiply.outer(positions, theta)


def rope_tables(angles, dtype=np.float32, interleaved=False):
    """angles [T, head_dim/2] → cos and sin [T, head_dim], the angle of a plane at both of its numbers, as `apply_rope` wants them.

    sin has a minus at the first number of a plane: (a, b) turns into (a cos − b sin, b cos + a sin).
    """
    cos, sin = np.cos(angles), np.sin(angles)                        # [T, head_dim/2]
    if interleaved:
        pairs = np.stack([cos, cos], axis=-1), np.stack([-sin, sin], axis=-1)          # [T, head_dim/2, 2]
    else:
        pairs = np.stack([cos, cos], axis=-2), np.stack([-sin, sin], axis=-2)          # [T, 2, head_dim/2]
    return tuple(pair.reshape(len(angles), -1).astype(dtype) for pair in pairs)


def apply_rope(x, cos, sin, interleaved=False):
    """Turn every plane of x by its angle. x [..., T, head_dim], cos and sin [T, head_dim] → [..., T, head_dim]."""
    y = swap(x, interleaved)
    y *= sin
    y += x * cos
    return y


def apply_rope_backward(dy, cos, sin, interleaved=False):
    """dy → dx. A rotation's inverse is its transpose, so the gradient is turned back by the same angle."""
    return apply_rope(dy, cos, -sin, interleaved)


def swap(x, interleaved):
    """Exchange the two numbers of every plane. x [..., head_dim] → a new array of the same shape."""
    if interleaved:
        return np.stack([x[..., 1::2], x[..., 0::2]], axis=-1).reshape(x.shape)
    half = x.shape[-1] // 2
    return np.concatenate([x[..., half:], x[..., :half]], axis=-1)


def to_half_split(weight, n_heads):
    """Reorder the rows of an interleaved Wq (n_heads) or Wk (n_kv_heads) for half-split RoPE. [n_heads · head_dim, dim] → same.

    Each head's rows 0, 1, 2, 3, … become 0, 2, 4, … 1, 3, 5, …; scores are unchanged, since q and k are permuted alike.
    """
    return weight.reshape(n_heads, -1, 2, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def to_interleaved(weight, n_heads):
    """The inverse of `to_half_split`."""
    return weight.reshape(n_heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)
