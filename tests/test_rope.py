import inspect
import math

import numpy as np
import pytest

from minillama import rope

# Plane 1 of head_dim 6 turns by theta_base^(−1/3) per position. Plane 0 turns by 1 whatever the base and the exponent are.
PLANE_1 = [  # theta_base, position, cos, sin
    (10_000.0, 1, 0.9989229760406304, 0.0463992234647313),
    (10_000.0, 3, 0.9903206991356750, 0.1387981010800505),
    (500_000.0, 1, 0.9999206309973302, 0.0125988771682611),
    (500_000.0, 3, 0.9992857545672352, 0.0377886321397218),
]


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def rotate(x, positions, interleaved=False, theta_base=10_000.0):
    """x [..., T, head_dim] turned at the given positions."""
    tables = rope.rope_tables(rope.rope_angles(np.asarray(positions), x.shape[-1], theta_base), x.dtype, interleaved)
    return rope.apply_rope(x, *tables, interleaved)


@pytest.mark.parametrize("theta_base, position, cos, sin", PLANE_1)
def test_golden_vector_half_split(theta_base, position, cos, sin):
    e = np.eye(6)
    np.testing.assert_allclose(rotate(e[1:2], [position], theta_base=theta_base), [cos * e[1] + sin * e[4]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(rotate(e[4:5], [position], theta_base=theta_base), [cos * e[4] - sin * e[1]], rtol=0, atol=1e-15)


@pytest.mark.parametrize("theta_base, position, cos, sin", PLANE_1)
def test_golden_vector_interleaved(theta_base, position, cos, sin):
    e = np.eye(6)
    np.testing.assert_allclose(rotate(e[2:3], [position], True, theta_base), [cos * e[2] + sin * e[3]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(rotate(e[3:4], [position], True, theta_base), [cos * e[3] - sin * e[2]], rtol=0, atol=1e-15)


def test_angles_are_position_times_theta():
    angles = rope.rope_angles(np.array([0, 1, 3]), 6, 1000.0)
    np.testing.assert_allclose(angles, [[0, 0, 0], [1, 0.1, 0.01], [3, 0.3, 0.03]], rtol=1e-14)


def test_far_positions_keep_their_precision():
    position = 131_071                                                         # in float32 the angle would be off by up to 0.004
    cos, sin = rope.rope_tables(rope.rope_angles(np.array([position]), 6, 10_000.0))
    angles = [position * 10_000.0 ** (-i / 3) for i in range(3)]
    np.testing.assert_allclose(cos[0], [math.cos(angle) for angle in angles * 2], rtol=0, atol=1e-7)
    np.testing.assert_allclose(sin[0], [sign * math.sin(angle) for sign in (-1, 1) for angle in angles], rtol=0, atol=1e-7)


def test_both_layouts_equal_a_complex_product():
    x = normal(2, 5, 6)
    positions = np.array([0, 1, 2, 7, 30])
    turns = np.exp(1j * positions[:, None] * 10_000.0 ** (-2 * np.arange(3) / 6))          # [T, head_dim/2]
    half_split = (x[..., :3] + 1j * x[..., 3:]) * turns
    interleaved = (x[..., 0::2] + 1j * x[..., 1::2]) * turns
    np.testing.assert_allclose(rotate(x, positions), np.concatenate([half_split.real, half_split.imag], axis=-1), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(rotate(x, positions, True), np.stack([interleaved.real, interleaved.imag], axis=-1).reshape(x.shape),
                               rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("interleaved", [False, True])
def test_position_0_changes_nothing(interleaved):
    x = normal(3, 1, 6)
    np.testing.assert_array_equal(rotate(x, [0], interleaved), x)


@pytest.mark.parametrize("interleaved", [False, True])
def test_norms_are_preserved(interleaved):
    x = normal(2, 5, 6)
    np.testing.assert_allclose(np.linalg.norm(rotate(x, np.arange(5), interleaved), axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-14)


def test_the_tables_of_one_layout_do_not_fit_the_other():
    x, angles = normal(2, 5, 6), rope.rope_angles(np.arange(5), 6, 10_000.0)
    mixed = rope.apply_rope(x, *rope.rope_tables(angles, np.float64, interleaved=True), interleaved=False)
    assert not np.allclose(np.linalg.norm(mixed, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-2)


@pytest.mark.parametrize("interleaved", [False, True])
def test_scores_depend_on_the_offset_alone(interleaved):
    q, k = normal(6), normal(6, seed=1)                                        # one query and one key, at every position
    offsets = np.arange(5)

    def scores(start):
        return rotate(np.tile(k, (5, 1)), start + offsets, interleaved) @ rotate(q[None], [start], interleaved)[0]

    for start in (1, 7, 100):
        np.testing.assert_allclose(scores(start), scores(0), rtol=0, atol=1e-12)
    assert np.abs(np.diff(scores(0))).min() > 1e-3                             # and they do depend on it


def test_backward_turns_back():
    x, angles = normal(2, 5, 6), rope.rope_angles(np.arange(3, 8), 6, 10_000.0)
    for interleaved in (False, True):
        tables = rope.rope_tables(angles, np.float64, interleaved)
        back = rope.apply_rope_backward(rope.apply_rope(x, *tables, interleaved), *tables, interleaved)
        np.testing.assert_allclose(back, x, rtol=0, atol=1e-14)


@pytest.mark.parametrize("interleaved", [False, True])
def test_backward_equals_central_differences(interleaved, assert_gradients):
    x, dy = normal(2, 5, 6), normal(2, 5, 6, seed=1)
    tables = rope.rope_tables(rope.rope_angles(np.arange(3, 8), 6, 100.0), np.float64, interleaved)
    assert_gradients(lambda x: rope.apply_rope(x, *tables, interleaved), [x], dy, [rope.apply_rope_backward(dy, *tables, interleaved)])


# the permutation between the layouts

def test_to_half_split_takes_the_even_rows_of_every_head_and_then_the_odd_ones():
    rows = np.arange(12)[:, None] * [1, 100]                                   # two heads of six rows
    np.testing.assert_array_equal(rope.to_half_split(rows, 2)[:, 0], [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11])
    np.testing.assert_array_equal(rope.to_half_split(rows, 2)[:, 1], 100 * rope.to_half_split(rows, 2)[:, 0])


def test_to_interleaved_is_its_inverse():
    weight = normal(48, 5)
    np.testing.assert_array_equal(rope.to_interleaved(rope.to_half_split(weight, 8), 8), weight)
    np.testing.assert_array_equal(rope.to_half_split(rope.to_interleaved(weight, 8), 8), weight)
    np.testing.assert_array_equal(rope.to_interleaved(np.arange(12)[:, None], 2)[:, 0], [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11])


def head_scores(x, wq, wk, interleaved):
    """[n_heads, T, T], 8 query heads and 2 key heads, explicitly repeated."""
    q = rotate((x @ wq.T).reshape(5, 8, 6).swapaxes(0, 1), np.arange(5), interleaved)
    k = rotate((x @ wk.T).reshape(5, 2, 6).swapaxes(0, 1), np.arange(5), interleaved)
    return q @ np.repeat(k, 4, axis=0).swapaxes(-1, -2)


def test_permuted_weights_with_half_split_equal_the_original_with_interleaved():
    x, wq, wk = normal(5, 20), normal(48, 20, seed=1), normal(12, 20, seed=2)  # group size 4, not n_kv_heads
    expected = head_scores(x, wq, wk, interleaved=True)
    np.testing.assert_allclose(head_scores(x, rope.to_half_split(wq, 8), rope.to_half_split(wk, 2), False), expected, rtol=0, atol=1e-11)
    for wrong_wq, wrong_wk in ((wq, wk),                                       # not permuted
                               (rope.to_half_split(wq, 8), wk),                # only Wq
                               (rope.to_half_split(wq, 2), rope.to_half_split(wk, 2)),     # Wq with n_kv_heads
                               (rope.to_half_split(wq, 8), rope.to_half_split(wk, 1))):    # Wk with another number of heads
        assert np.abs(head_scores(x, wrong_wq, wrong_wk, False) - expected).max() > 1


# dtypes

FUNCTIONS = ["rope_tables", "apply_rope", "apply_rope_backward", "swap", "to_half_split", "to_interleaved"]


def calls(dtype):
    """Every function of the module with inputs of one dtype that must not be written to."""
    x, weight = normal(2, 5, 6, dtype=dtype), normal(12, 4, dtype=dtype)
    x.flags.writeable = weight.flags.writeable = False
    angles = rope.rope_angles(np.arange(5), 6, 10_000.0)
    tables = rope.rope_tables(angles, dtype)
    return {
        "rope_tables": lambda: [*tables, *rope.rope_tables(angles, dtype, interleaved=True)],
        "apply_rope": lambda: [rope.apply_rope(x, *tables), rope.apply_rope(x, *tables, True)],
        "apply_rope_backward": lambda: [rope.apply_rope_backward(x, *tables), rope.apply_rope_backward(x, *tables, True)],
        "swap": lambda: [rope.swap(x, False), rope.swap(x, True)],
        "to_half_split": lambda: [rope.to_half_split(weight, 2)],
        "to_interleaved": lambda: [rope.to_interleaved(weight, 2)],
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_dtype_of_the_input_is_kept_and_the_input_left_alone(name, dtype):
    assert all(array.dtype == dtype for array in calls(dtype)[name]())


def test_angles_are_float64_and_tables_float32_unless_told_otherwise():
    angles = rope.rope_angles(np.arange(5), 6, 10_000)
    assert angles.dtype == np.float64
    assert all(table.dtype == np.float32 and table.shape == (5, 6) for table in rope.rope_tables(angles))


def test_every_function_of_the_module_is_called_for_its_dtype():
    assert {"rope_angles", *FUNCTIONS} == {name for name, _ in inspect.getmembers(rope, inspect.isfunction)}
