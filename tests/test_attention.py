import inspect
import math

import numpy as np
import pytest

from minillama import attention
from minillama.config import LlamaConfig


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def qkv(n_heads, n_kv_heads, T_q, T_kv, head_dim=6, leading=(), dtype=np.float64):
    return (normal(*leading, n_heads, T_q, head_dim, dtype=dtype), normal(*leading, n_kv_heads, T_kv, head_dim, seed=1, dtype=dtype),
            normal(*leading, n_kv_heads, T_kv, head_dim, seed=2, dtype=dtype))


def attention_by_loops(q, k, v):
    """One query head and one query at a time; head h reads key/value head h // group_size. No leading axes."""
    n_heads, T_q, head_dim = q.shape
    n_kv_heads, T_kv, _ = k.shape
    out = np.empty(q.shape)
    for h in range(n_heads):
        kv_head = h // (n_heads // n_kv_heads)
        for i in range(T_q):
            seen = T_kv - T_q + i + 1
            weights = np.exp([q[h, i] @ k[kv_head, j] / math.sqrt(head_dim) for j in range(seen)])
            out[h, i] = sum(weight * v[kv_head, j] for j, weight in enumerate(weights / weights.sum()))
    return out


def test_causal_mask_by_hand():
    no = -np.inf
    np.testing.assert_array_equal(attention.causal_mask(3, 3), [[0, no, no], [0, 0, no], [0, 0, 0]])
    np.testing.assert_array_equal(attention.causal_mask(2, 5), [[0, 0, 0, 0, no], [0, 0, 0, 0, 0]])


def test_a_query_head_reads_the_key_value_head_of_its_group():
    q, k, v = qkv(8, 2, 5, 5)
    v[0], v[1] = 3, 7                                                          # constant: the output tells which one was read
    out = attention.grouped_query_attention(q, k, v)
    np.testing.assert_allclose(out[:4], 3, rtol=1e-14)
    np.testing.assert_allclose(out[4:], 7, rtol=1e-14)


@pytest.mark.parametrize("block", [1, 2, 64])
@pytest.mark.parametrize("T_q, T_kv", [(5, 5), (1, 7), (3, 7), (1, 1)])
@pytest.mark.parametrize("n_heads, n_kv_heads", [(8, 2), (9, 3), (4, 4), (8, 1)])
def test_attention_equals_a_loop_over_heads_and_queries(n_heads, n_kv_heads, T_q, T_kv, block, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", block)
    q, k, v = qkv(n_heads, n_kv_heads, T_q, T_kv)
    np.testing.assert_allclose(attention.grouped_query_attention(q, k, v), attention_by_loops(q, k, v), rtol=0, atol=1e-13)


@pytest.mark.parametrize("T_q, T_kv", [(100, 100), (70, 90)])
def test_attention_over_several_blocks_of_the_usual_size_equals_the_loop(T_q, T_kv):
    assert T_q > attention.BLOCK
    q, k, v = qkv(4, 2, T_q, T_kv)
    np.testing.assert_allclose(attention.grouped_query_attention(q, k, v), attention_by_loops(q, k, v), rtol=0, atol=1e-13)


def test_leading_axes_are_independent():
    q, k, v = qkv(8, 2, 3, 7, leading=(2, 3))
    out = attention.grouped_query_attention(q, k, v)
    for i in np.ndindex(2, 3):
        np.testing.assert_allclose(out[i], attention_by_loops(q[i], k[i], v[i]), rtol=0, atol=1e-13)


def test_probabilities_sum_to_1_and_the_future_has_none():
    q, k, _ = qkv(8, 2, 3, 7, leading=(2,))
    probabilities = attention.attention_probabilities(q, k)
    assert probabilities.shape == (2, 8, 3, 7)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-14)
    np.testing.assert_array_equal(probabilities > 0, np.broadcast_to(np.arange(7) <= 4 + np.arange(3)[:, None], (2, 8, 3, 7)))


def test_scores_are_divided_by_the_root_of_head_dim():
    q, k = np.zeros((1, 2, 4)), np.zeros((1, 2, 4))
    q[..., 0], k[0, 1, 0] = 2, math.log(3)                                     # scores 0 and 2 log(3) / sqrt(4)
    np.testing.assert_allclose(attention.attention_probabilities(q, k), [[[1, 0], [1 / 4, 3 / 4]]], rtol=1e-14)


def test_large_scores_do_not_overflow():
    q, k, v = qkv(8, 2, 5, 5, dtype=np.float32)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert np.isfinite(attention.grouped_query_attention(1000 * q, 1000 * k, v)).all()


def test_earlier_outputs_are_bit_identical_when_the_last_key_and_value_change():
    q, k, v = qkv(8, 2, 70, 70, dtype=np.float32)
    out = attention.grouped_query_attention(q, k, v)
    for x in (q, k, v):
        x[:, -1] += 1
    changed = attention.grouped_query_attention(q, k, v)
    np.testing.assert_array_equal(changed[:, :-1], out[:, :-1])
    assert (changed[:, -1] != out[:, -1]).any(axis=-1).all()


def test_the_blocks_hold_every_query_once_and_end_at_its_own_key(monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", 3)
    assert list(attention.query_blocks(7, 11)) == [(slice(0, 3), slice(0, 7)), (slice(3, 6), slice(0, 10)), (slice(6, 7), slice(0, 11))]


@pytest.mark.parametrize("block", [2, 64])
@pytest.mark.parametrize("n_heads, n_kv_heads, T_q, T_kv, leading", [
    (8, 2, 5, 5, ()), (8, 2, 3, 5, (2,)), (9, 3, 5, 5, ()), (4, 4, 5, 5, ()),
])
def test_backward_equals_central_differences(n_heads, n_kv_heads, T_q, T_kv, leading, block, monkeypatch, assert_gradients):
    monkeypatch.setattr(attention, "BLOCK", block)
    inputs = qkv(n_heads, n_kv_heads, T_q, T_kv, head_dim=2, leading=leading)
    kept = []
    out = attention.grouped_query_attention(*inputs, keep=kept)
    dout = normal(*out.shape, seed=3)
    assert_gradients(attention.grouped_query_attention, inputs, dout,
                     attention.grouped_query_attention_backward(dout, out, *inputs, kept))


# the cache

CONFIG = LlamaConfig(dim=20, n_layers=3, n_heads=8, n_kv_heads=2, head_dim=6, hidden_dim=27, vocab_size=33, max_seq_len=11,
                     norm_eps=1e-5, theta_base=10_000.0, tied=False)


@pytest.mark.parametrize("batch_shape", [(), (4,)])
def test_the_cache_is_filled_in_place(batch_shape):
    cache = attention.KVCache(CONFIG, batch_shape=batch_shape)
    assert cache.keys.shape == cache.values.shape == (3, *batch_shape, 2, 11, 6)
    assert (cache.length, cache.max_seq_len) == (0, 11)
    k, v = normal(3, *batch_shape, 2, 5, 6, dtype=np.float32), normal(3, *batch_shape, 2, 5, 6, seed=1, dtype=np.float32)
    for rows in (slice(0, 3), slice(3, 5)):
        for layer in range(3):
            keys, values = cache.extend(layer, k[layer, ..., rows, :], v[layer, ..., rows, :])
            np.testing.assert_array_equal(keys, k[layer, ..., :rows.stop, :])
            np.testing.assert_array_equal(values, v[layer, ..., :rows.stop, :])
            assert np.shares_memory(keys, cache.keys) and np.shares_memory(values, cache.values)
        cache.length = rows.stop                                               # the model does this
    assert not cache.keys[..., 5:, :].any() and not cache.values[..., 5:, :].any()


def test_the_cache_has_the_length_that_was_asked_for():
    cache = attention.KVCache(CONFIG, max_seq_len=7)
    assert cache.max_seq_len == cache.keys.shape[-2] == cache.values.shape[-2] == 7


# dtypes

FUNCTIONS = ["causal_mask", "attention_probabilities", "group", "grouped_query_attention", "grouped_query_attention_backward"]


def calls(dtype):
    """Every function of the module with inputs of one dtype that must not be written to."""
    q, k, v = qkv(8, 2, 5, 5, leading=(2,), dtype=dtype)
    kept = []
    out = attention.grouped_query_attention(q, k, v, kept)
    for x in (q, k, v, out, *kept):
        x.flags.writeable = False
    return {
        "causal_mask": lambda: [attention.causal_mask(3, 5, dtype)],
        "attention_probabilities": lambda: [attention.attention_probabilities(q, k)],
        "group": lambda: [attention.group(q, 2)],
        "grouped_query_attention": lambda: [attention.grouped_query_attention(q, k, v), *kept],
        "grouped_query_attention_backward": lambda: attention.grouped_query_attention_backward(out, out, q, k, v, kept),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_dtype_of_the_input_is_kept_and_the_input_left_alone(name, dtype):
    assert all(array.dtype == dtype for array in calls(dtype)[name]())


def test_mask_and_cache_are_float32_unless_told_otherwise():
    cache, wide = attention.KVCache(CONFIG), attention.KVCache(CONFIG, dtype=np.float64)
    assert attention.causal_mask(2, 3).dtype == cache.keys.dtype == cache.values.dtype == np.float32
    assert wide.keys.dtype == wide.values.dtype == np.float64


def test_every_function_of_the_module_is_called_for_its_dtype():
    own = {name for name, function in inspect.getmembers(attention, inspect.isfunction) if function.__module__ == attention.__name__}
    assert {"query_blocks", *FUNCTIONS} == own
