import inspect
import math

import numpy as np
import pytest

from minillama import ops


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def arrays_in(result):
    """Every array in a function's result."""
    return [result] if isinstance(result, np.ndarray) else [array for part in result for array in arrays_in(part)]


# RMSNorm

def test_rms_norm_of_3_and_4_with_unequal_weights():
    y = ops.rms_norm(np.array([3.0, 4.0]), np.array([2.0, -1.0]), 1e-5)        # mean square 12.5; a mean of 3.5 is not subtracted
    np.testing.assert_allclose(y, [6 / math.sqrt(12.50001), -4 / math.sqrt(12.50001)], rtol=1e-14)


@pytest.mark.parametrize("dtype, rtol", [(np.float64, 1e-12), (np.float32, 1e-6)])
@pytest.mark.parametrize("eps, expected", [(1e-5, 1e-3 / math.sqrt(1.1e-5)), (1e-6, 1e-3 / math.sqrt(2e-6))])
def test_rms_norm_adds_eps_inside_the_root(eps, expected, dtype, rtol):
    y = ops.rms_norm(np.full(7, 1e-3, dtype), np.full(7, 3.0, dtype), eps)
    np.testing.assert_allclose(y, 3 * expected, rtol=rtol)


def test_rms_norm_of_zeros_is_zeros():
    np.testing.assert_array_equal(ops.rms_norm(np.zeros((2, 5), np.float32), np.full(5, 2, np.float32), 1e-5), np.zeros((2, 5)))


def test_rms_norm_of_float16_does_not_overflow():
    with np.errstate(all="raise"):
        y = ops.rms_norm(np.full((2, 5), 300, np.float16), np.ones(5, np.float32), 1e-5)     # 300² is beyond float16
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, np.ones((2, 5)))


def test_rms_norm_takes_each_token_alone():
    x, weight = normal(2, 5, 7, dtype=np.float32), normal(7, seed=1, dtype=np.float32)
    y = ops.rms_norm(x, weight, 1e-5)
    changed = x.copy()
    changed[:, -1] *= 100
    np.testing.assert_array_equal(ops.rms_norm(changed, weight, 1e-5)[:, :-1], y[:, :-1])
    assert not np.array_equal(ops.rms_norm(x + 1, weight, 1e-5), y)
    for i in np.ndindex(2, 5):
        np.testing.assert_allclose(y[i], x[i] / math.sqrt(float(x[i] @ x[i]) / 7 + 1e-5) * weight, rtol=1e-6)


# softmax and cross-entropy

def test_softmax_by_hand():
    y = ops.softmax(np.log([[1.0, 2.0, 5.0], [1.0, 1.0, 2.0]]))
    np.testing.assert_allclose(y, [[1 / 8, 2 / 8, 5 / 8], [1 / 4, 1 / 4, 2 / 4]], rtol=1e-14)


def test_softmax_of_huge_and_of_hidden_entries():
    with np.errstate(all="raise"):
        y = ops.softmax(np.array([[1000, 1000, -np.inf], [-1000, -np.inf, -np.inf]], np.float32))
    np.testing.assert_array_equal(y, [[0.5, 0.5, 0], [1, 0, 0]])


def test_softmax_leaves_its_input_alone_unless_told_to_write_there():
    x = normal(2, 3, 5)
    before = x.copy()
    y = ops.softmax(x)
    np.testing.assert_array_equal(x, before)
    assert ops.softmax(x, out=x) is x
    np.testing.assert_array_equal(x, y)


def test_cross_entropy_by_hand():
    logits = np.log([[1.0, 2.0, 5.0], [1.0, 1.0, 2.0], [3.0, 1.0, 4.0]]) + np.array([[0.0], [1000.0], [-1000.0]])
    with np.errstate(all="raise"):
        loss = ops.cross_entropy(logits, np.array([1, 2, 0]))
    np.testing.assert_allclose(loss, np.log([8 / 2, 4 / 2, 8 / 3]), rtol=1e-12)


def test_a_target_of_minus_one_has_no_loss_and_no_gradient():
    logits, targets = normal(2, 3, 5), np.array([[4, -1, 0], [-1, -1, 2]])
    loss, dlogits = ops.cross_entropy(logits, targets), ops.cross_entropy_backward(np.full((2, 3), 0.7), logits, targets)
    np.testing.assert_array_equal(loss == 0, targets == -1)
    np.testing.assert_array_equal((dlogits == 0).all(axis=-1), targets == -1)
    np.testing.assert_allclose(dlogits.sum(axis=-1), 0, atol=1e-15)            # probabilities sum to 1, and 1 is taken at the target


# the feed-forward layer

def test_sigmoid_and_silu_at_known_points():
    z = np.log([3.0, 1.0, 1 / 4])
    np.testing.assert_allclose(ops.sigmoid(z), [3 / 4, 1 / 2, 1 / 5], rtol=1e-14)
    np.testing.assert_allclose(ops.silu(z), z * [3 / 4, 1 / 2, 1 / 5], rtol=1e-14)


def test_silu_cannot_overflow():
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        np.testing.assert_array_equal(ops.silu(np.array([-1e30, -200, 200, 1e30], np.float32)), np.array([0, 0, 200, 1e30], np.float32))


def test_swiglu_equals_a_loop_over_tokens_and_hidden_units():
    x, w_gate, w_up, w_down = normal(2, 3, 4), normal(7, 4, seed=1), normal(7, 4, seed=2), normal(4, 7, seed=3)
    kept = []
    y = ops.swiglu(x, w_gate, w_up, w_down, kept)
    for i in np.ndindex(2, 3):
        expected = np.zeros(4)
        for unit in range(7):
            z = w_gate[unit] @ x[i]
            expected += w_down[:, unit] * (z / (1 + math.exp(-z)) * (w_up[unit] @ x[i]))
        np.testing.assert_allclose(y[i], expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(kept, [x @ w_gate.T, x @ w_up.T], rtol=1e-14)


def test_linear_takes_weights_as_out_by_in():
    np.testing.assert_array_equal(ops.linear(np.array([[1.0, 10.0]]), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])), [[21, 43, 65]])


# the embedding

def test_embed_looks_up_rows():
    weight = normal(5, 3)
    np.testing.assert_array_equal(ops.embed(np.array([[4, 0, 4], [1, 2, 0]]), weight), [[weight[4], weight[0], weight[4]],
                                                                                       [weight[1], weight[2], weight[0]]])


def test_embed_backward_sums_over_the_places_of_an_id():
    ids, dy = np.array([[4, 0, 4], [1, 4, 0]]), normal(2, 3, 2)
    expected = np.zeros((6, 2))
    for place in np.ndindex(2, 3):
        expected[ids[place]] += dy[place]
    np.testing.assert_allclose(ops.embed_backward(dy, ids, normal(6, 2)), expected, rtol=1e-14)


# every backward pass

def gradients_of_linear():
    x, weight, dy = normal(2, 3, 4), normal(5, 4, seed=1), normal(2, 3, 5, seed=2)
    return ops.linear, [x, weight], dy, ops.linear_backward(dy, x, weight)


def gradients_of_rms_norm():
    x, weight, dy = normal(2, 3, 5), normal(5, seed=1), normal(2, 3, 5, seed=2)
    return lambda x, weight: ops.rms_norm(x, weight, 0.1), [x, weight], dy, ops.rms_norm_backward(dy, x, weight, 0.1)


def gradients_of_softmax():
    x, dy = normal(2, 3, 5), normal(2, 3, 5, seed=1)
    return ops.softmax, [x], dy, [ops.softmax_backward(dy, ops.softmax(x))]


def gradients_of_silu():
    z, dy = 3 * normal(2, 3, 5), normal(2, 3, 5, seed=1)
    return ops.silu, [z], dy, [ops.silu_backward(dy, z)]


def gradients_of_swiglu():
    inputs, dy, kept = [normal(2, 3, 4), normal(7, 4, seed=1), normal(7, 4, seed=2), normal(4, 7, seed=3)], normal(2, 3, 4, seed=4), []
    ops.swiglu(*inputs, keep=kept)
    return ops.swiglu, inputs, dy, ops.swiglu_backward(dy, *inputs, kept)


def gradients_of_embed():
    ids, weight, dy = np.array([[4, 0, 4], [1, 4, 0]]), normal(6, 2), normal(2, 3, 2, seed=1)
    return lambda weight: ops.embed(ids, weight), [weight], dy, [ops.embed_backward(dy, ids, weight)]


def gradients_of_cross_entropy():
    logits, targets, dy = normal(2, 3, 5), np.array([[4, -1, 0], [1, -1, 2]]), normal(2, 3, seed=1)
    return lambda logits: ops.cross_entropy(logits, targets), [logits], dy, [ops.cross_entropy_backward(dy, logits, targets)]


@pytest.mark.parametrize("name", ["linear", "rms_norm", "softmax", "silu", "swiglu", "embed", "cross_entropy"])
def test_backward_equals_central_differences(name, assert_gradients):
    assert_gradients(*globals()[f"gradients_of_{name}"]())


def test_every_backward_of_the_module_is_checked():
    assert {name for name in vars(ops) if name.endswith("_backward")} == {
        name.replace("gradients_of_", "") + "_backward" for name in globals() if name.startswith("gradients_of_")}


# dtypes

def calls(dtype):
    """Every function of the module with inputs of one dtype that must not be written to."""
    def x(*shape):
        array = normal(*shape, dtype=dtype)
        array.flags.writeable = False
        return array

    ids, targets = np.array([[3, 0, 3], [1, 2, 0]]), np.array([[3, -1, 0], [1, 2, 0]])
    return {
        "linear": lambda: ops.linear(x(2, 3, 4), x(5, 4)),
        "linear_backward": lambda: ops.linear_backward(x(2, 3, 5), x(2, 3, 4), x(5, 4)),
        "rms_norm": lambda: ops.rms_norm(x(2, 3, 4), x(4), 1e-5),
        "inverse_rms": lambda: ops.inverse_rms(x(2, 3, 4), 1e-5),
        "rms_norm_backward": lambda: ops.rms_norm_backward(x(2, 3, 4), x(2, 3, 4), x(4), 1e-5),
        "softmax": lambda: ops.softmax(x(2, 3, 4)),
        "softmax_backward": lambda: ops.softmax_backward(x(2, 3, 4), x(2, 3, 4)),
        "sigmoid": lambda: ops.sigmoid(x(2, 3, 4)),
        "silu": lambda: ops.silu(x(2, 3, 4)),
        "silu_backward": lambda: ops.silu_backward(x(2, 3, 4), x(2, 3, 4)),
        "swiglu": lambda: (ops.swiglu(x(2, 3, 4), x(7, 4), x(7, 4), x(4, 7), keep := []), keep),
        "swiglu_backward": lambda: ops.swiglu_backward(x(2, 3, 4), x(2, 3, 4), x(7, 4), x(7, 4), x(4, 7), [x(2, 3, 7), x(2, 3, 7)]),
        "embed": lambda: ops.embed(ids, x(4, 5)),
        "embed_backward": lambda: ops.embed_backward(x(2, 3, 5), ids, x(4, 5)),
        "cross_entropy": lambda: ops.cross_entropy(x(2, 3, 4), targets),
        "cross_entropy_backward": lambda: ops.cross_entropy_backward(x(2, 3), x(2, 3, 4), targets),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", calls(np.float32))
def test_the_dtype_of_the_input_is_kept_and_the_input_left_alone(name, dtype):
    result = arrays_in(calls(dtype)[name]())
    assert result and all(array.dtype == dtype for array in result)


def test_every_function_of_the_module_is_called_for_its_dtype():
    assert set(calls(np.float32)) == {name for name, _ in inspect.getmembers(ops, inspect.isfunction)}
