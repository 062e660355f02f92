"""04, RoPE."""

import numpy as np

from ..rope import apply_rope, rope_angles, rope_tables, to_half_split, to_interleaved
from . import exercise, expect


@exercise
def rope_half_split(fn):
    rng = np.random.default_rng(0)
    for positions, theta_base in ((np.array([1, 3]), 500.0), (np.array([0, 3, 4, 11, 70]), 10_000.0)):
        x = rng.standard_normal((2, len(positions), 6))                                    # [n_heads, T, head_dim]
        angles = rope_angles(positions, 6, theta_base)                                     # [T, head_dim/2]

        def turned(positions=positions, base=theta_base, sign=1, interleaved=False, by=False, x=x):
            cos, sin = rope_tables(sign * rope_angles(positions, 6, base), np.float64, interleaved)
            return apply_rope(x, cos, sin, by)

        expect(fn(x.copy(), positions.copy(), theta_base), turned(), {
            "That pairs neighbors, (0, 1), (2, 3), …; half-split pairs number i with number i + head_dim/2.": turned(interleaved=True, by=True),
            "Every plane is turned backwards: (a, b) becomes (a cos − b sin, b cos + a sin).": turned(sign=-1),
            "A minus is missing: (a, b) becomes (a cos − b sin, b cos + a sin).": turned() + 2 * np.pad(
                x[..., 3:] * np.sin(angles), [(0, 0), (0, 0), (0, 3)]),
            "The positions are given; they need not be 0, 1, 2, …": turned(np.arange(len(positions))),
            "That is one position too far: the first position is 0, where nothing turns.": turned(positions + 1),
            "The exponent is −2i/head_dim, and you seem to have used −i/head_dim.": turned(base=theta_base ** 0.5),
            "The exponent is −2i/head_dim, and you seem to have used −4i/head_dim.": turned(base=theta_base ** 2),
            "The exponent is negative: each plane is slower than the one before it.": turned(base=1 / theta_base),
            "theta_base is an argument; it need not be 10000.": turned(base=10_000.0),
            "The second half was made of a first half that was turned already: keep a copy of it.": np.concatenate([turned()[..., :3], (
                x[..., 3:] * np.cos(angles) + turned()[..., :3] * np.sin(angles))], axis=-1),
        })


@exercise
def convert_to_half_split(fn):
    for n_heads, n_kv_heads, head_dim in ((6, 2, 12), (8, 4, 16)):                         # n_kv_heads is not n_heads / n_kv_heads
        wq, wk = (np.random.default_rng(n_heads).standard_normal((n * head_dim, 5)) for n in (n_heads, n_kv_heads))
        got = fn(wq.copy(), wk.copy(), n_heads, n_kv_heads)
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise AssertionError("Give back both matrices: `return wq, wk`.")
        for name, given, weight, n, wrong in (("Wq", got[0], wq, n_heads, n_kv_heads), ("Wk", got[1], wk, n_kv_heads, n_heads)):
            if given is not None and np.size(given) == weight.size and np.shape(given) != weight.shape:
                raise AssertionError(f"{name} should keep its shape {weight.shape}; yours is {np.shape(given)}: reshape it back at the end.")
            expect(given, to_half_split(weight, n), {
                f"{name} has come back as it was; both need the new order, or their planes do not meet.": weight,
                f"{name} has {n} heads, and you seem to have cut it into {wrong}.": to_half_split(weight, wrong),
                f"{name} has {n} heads, and you seem to have cut it into n_heads // n_kv_heads.": to_half_split(weight, n_heads // n_kv_heads),
                f"{name} was permuted as one block; each head keeps its own rows.": to_half_split(weight, 1),
                "That is the way back, from half-split to interleaved.": to_interleaved(weight, n),
            })


@exercise
def smallest_theta_base(fn):
    for head_dim, context in ((16, 512), (128, 131_072)):
        def base(turn=2 * np.pi, last=head_dim - 2, head_dim=head_dim, context=context):
            return (context / turn) ** (head_dim / last)

        expect(float(fn(head_dim, context)), base(), {
            "The slowest plane is i = head_dim/2 − 1, so that its exponent is −(head_dim − 2)/head_dim, not −1.": base(last=head_dim),
            "The slowest plane is i = head_dim/2 − 1, so that 2i is head_dim − 2, not head_dim − 1.": base(last=head_dim - 1),
            "It need not be a whole number: give it back as it is.": np.ceil(base()),
            "A full turn is 2π, not 1.": base(turn=1),
            "A full turn is 2π, not π.": base(turn=np.pi),
            "A full turn is 2π, not 360: the angles are in radians.": base(turn=360),
            "The exponent is upside down: base^((head_dim − 2)/head_dim) has to be undone.": (context / (2 * np.pi)) ** ((head_dim - 2) / head_dim),
        })
