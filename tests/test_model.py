import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

import minillama as ml
from minillama import attention
from minillama.attention import KVCache
from minillama.checkpoint import check_tensors, find_tensors, hugging_face_name, read_config, read_tensor
from minillama.config import LlamaConfig
from minillama.model import Llama, merge_heads, random_weights, split_heads, weight_shapes
from minillama.ops import cross_entropy

GOLDEN = Path(__file__).parent / "golden"
DATA = Path(__file__).parent.parent / "data"
CASES = ("heads_8_2_tied", "heads_9_3_bf16", "heads_4_4_sharded", "heads_8_1_f16")


def read_llama(folder):
    """The model of a folder that has no tokenizer."""
    config, tensors = read_config(folder), find_tensors(folder)
    check_tensors(folder, config, tensors)
    return Llama(config, {name: read_tensor(*tensors[hugging_face_name(name)]) for name in weight_shapes(config)})


def random_ids(*shape, vocab_size=33, seed=5):
    return np.random.default_rng(seed).integers(0, vocab_size, shape)


# golden values from transformers, see golden/make_golden.py

@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case):
    golden = np.load(GOLDEN / case / "golden.npz")
    logits = read_llama(GOLDEN / case)(golden["ids"])
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_file_as_version_4_wrote_it_gives_the_same_logits(case, tmp_path):
    for file in (GOLDEN / case).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tmp_path / "config.json").read_text())
    settings |= {"rope_theta": settings.pop("rope_parameters")["rope_theta"], "torch_dtype": settings.pop("dtype"), "rope_scaling": None}
    if settings["hidden_size"] == settings["num_attention_heads"] * settings["head_dim"]:
        del settings["head_dim"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    golden = np.load(GOLDEN / case / "golden.npz")
    np.testing.assert_allclose(read_llama(tmp_path)(golden["ids"]), golden["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["heads_8_2_tied", "heads_4_4_sharded"])
def test_float32_gradients_equal_those_of_transformers(case):
    golden = np.load(GOLDEN / case / "golden.npz")
    loss, grads = read_llama(GOLDEN / case).loss_and_grads(golden["ids"], golden["targets"])
    assert loss == pytest.approx(float(golden["loss"]), rel=1e-6)
    assert {hugging_face_name(name) for name in grads} == set(golden.files) - {"ids", "logits", "targets", "loss"}
    for name, grad in grads.items():
        expected = golden[hugging_face_name(name)]
        assert grad.dtype == np.float32 and grad.shape == expected.shape
        assert np.abs(grad - expected).max() < 5e-6 * np.abs(expected).max(), name


def test_the_checkpoint_that_ships_gives_the_logits_of_transformers():
    golden = np.load(GOLDEN / "shipped.npz")
    assert hashlib.sha256((DATA / "model.safetensors").read_bytes()).hexdigest() == str(golden["sha256"]), \
        "shipped.npz belongs to other weights: python tests/golden/make_golden.py shipped"
    llama, _ = ml.load()
    np.testing.assert_allclose(llama(golden["ids"])[golden["positions"]], golden["logits"], rtol=0, atol=1e-4)


# one pass, token by token, in chunks

def in_chunks(llama, ids, lengths):
    """The logits of ids [..., T] that went through one cache in chunks."""
    cache = KVCache(llama.config, batch_shape=ids.shape[:-1], dtype=llama.dtype)
    ends = np.cumsum(lengths)
    assert ends[-1] == ids.shape[-1]
    logits = []
    for length, end in zip(lengths, ends):
        logits.append(llama(ids[..., end - length:end], cache))
        assert cache.length == end
    return np.concatenate(logits, axis=-2)


@pytest.mark.parametrize("shape", [(9,), (4, 9), (2, 3, 9)])
@pytest.mark.parametrize("lengths", [[1] * 9, [3, 2, 4], [9], [1, 8], [8, 1]])
def test_chunks_give_the_logits_of_one_pass(lengths, shape, random_llama):
    llama, ids = random_llama(), random_ids(*shape)
    np.testing.assert_allclose(in_chunks(llama, ids, lengths), llama(ids), rtol=0, atol=1e-5)


@pytest.mark.parametrize("lengths", [[1] * 150, [150], [30, 100, 20], [1, 149], [64, 64, 22], [65, 1, 84]])
def test_chunks_longer_than_a_block_give_the_logits_of_one_pass(lengths, random_llama):
    llama, ids = random_llama(), random_ids(150)
    assert attention.BLOCK == 64
    np.testing.assert_allclose(in_chunks(llama, ids, lengths), llama(ids), rtol=0, atol=1e-5)


def test_one_pass_over_several_blocks_equals_one_block(random_llama, monkeypatch):
    llama, ids = random_llama(dtype=np.float64), random_ids(2, 150)
    targets = random_ids(2, 150, seed=6)
    logits, (loss, grads) = llama(ids), llama.loss_and_grads(ids, targets)
    monkeypatch.setattr(attention, "BLOCK", 150)
    np.testing.assert_allclose(logits, llama(ids), rtol=0, atol=1e-12)
    expected_loss, expected = llama.loss_and_grads(ids, targets)
    assert loss == pytest.approx(expected_loss, rel=1e-13)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, expected[name], rtol=0, atol=1e-12 * np.abs(expected[name]).max())


def test_a_batch_gives_the_logits_of_its_rows(random_llama):
    llama, ids = random_llama(), random_ids(2, 3, 5)
    logits = llama(ids)
    assert logits.shape == (2, 3, 5, 33)
    for i in np.ndindex(2, 3):
        np.testing.assert_allclose(logits[i], llama(ids[i]), rtol=0, atol=1e-5)


def test_last_gives_the_last_row(random_llama):
    llama, ids = random_llama(), random_ids(2, 5)
    logits = llama(ids, last=True)
    assert logits.shape == (2, 1, 33)
    np.testing.assert_allclose(logits, llama(ids)[:, -1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("T", [5, 100])
def test_earlier_logits_are_bit_identical_when_the_last_token_changes(T, random_llama):
    llama, ids = random_llama(), random_ids(T)
    changed = ids.copy()
    changed[-1] = (ids[-1] + 1) % 33
    before, after = llama(ids), llama(changed)
    np.testing.assert_array_equal(after[:-1], before[:-1])
    assert (after[-1] != before[-1]).all()


# gradients

def assert_gradients_of_loss(llama, ids, targets):
    """Central differences of the loss along three random directions for each weight, and the loss itself."""
    weights = {name: weight.copy() for name, weight in llama.weights.items()}
    loss, grads = llama.loss_and_grads(ids, targets)
    assert loss == pytest.approx(cross_entropy(llama(ids), targets).sum(), rel=1e-14)
    assert grads.keys() == weights.keys()

    def loss_with(name, weight):
        return cross_entropy(Llama(llama.config, weights | {name: weight})(ids), targets).sum()

    rng = np.random.default_rng(7)
    for name, weight in weights.items():
        assert grads[name].shape == weight.shape and grads[name].dtype == np.float64
        errors, slopes = [], []
        for _ in range(3):
            direction = rng.standard_normal(weight.shape)
            slope = (loss_with(name, weight + 1e-5 * direction) - loss_with(name, weight - 1e-5 * direction)) / 2e-5
            slopes.append(slope)
            errors.append((grads[name] * direction).sum() - slope)
        assert np.abs(errors).max() < 1e-6 * np.abs(slopes).max(), name


@pytest.mark.parametrize("block", [3, 64])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("n_heads, n_kv_heads", [(8, 2), (9, 3), (4, 4)])
def test_gradients_equal_central_differences(n_heads, n_kv_heads, tied, block, random_llama, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", block)
    llama = random_llama(dtype=np.float64, n_heads=n_heads, n_kv_heads=n_kv_heads, tied=tied, norm_eps=0.1, theta_base=100.0)
    ids, targets = random_ids(2, 7), random_ids(2, 7, seed=6)
    targets[0, 4:] = targets[1, 2] = -1
    assert_gradients_of_loss(llama, ids, targets)


def test_gradients_without_a_batch_axis_and_with_two(random_llama):
    llama = random_llama(dtype=np.float64)
    assert_gradients_of_loss(llama, random_ids(5), random_ids(5, seed=6))
    assert_gradients_of_loss(llama, random_ids(2, 3, 4), random_ids(2, 3, 4, seed=6))


def test_padding_adds_nothing_to_loss_and_gradients(random_llama):
    llama = random_llama(dtype=np.float64)
    ids, targets = random_ids(5), random_ids(5, seed=6)
    loss, grads = llama.loss_and_grads(ids, targets)
    padded_loss, padded_grads = llama.loss_and_grads(np.append(ids, [0, 0, 0]), np.append(targets, [-1, -1, -1]))
    assert padded_loss == pytest.approx(loss, rel=1e-14)
    for name, grad in grads.items():
        np.testing.assert_allclose(padded_grads[name], grad, rtol=0, atol=1e-13)


# dtypes, and what a caller may rely on

@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tied", [False, True])
def test_everything_keeps_the_dtype_of_the_weights(tied, dtype, random_llama):
    llama, ids = random_llama(dtype=dtype, tied=tied), random_ids(2, 5)
    cache, trace = KVCache(llama.config, batch_shape=(2,), dtype=dtype), []
    arrays = [llama(ids), llama(ids, cache, last=True, trace=trace), cache.keys, cache.values, *llama.rotations(3, 5)]
    for layer in trace:
        for value in layer.values():
            arrays += value if isinstance(value, list) else [value]
    arrays += llama.loss_and_grads(ids, ids)[1].values()
    assert len(trace) == 2 and all(array.dtype == dtype for array in arrays)
    assert type(llama.loss_and_grads(ids, ids)[0]) is float


def test_positions_are_counted_from_0(random_llama):
    """The logits cannot tell: they depend on differences of positions alone."""
    llama = random_llama()
    for table, later, at_0 in zip(llama.rotations(0, 5), llama.rotations(2, 3), (1, 0)):
        np.testing.assert_array_equal(table[0], np.full(6, at_0))
        np.testing.assert_array_equal(table[2:], later)
    trace = []
    llama(random_ids(4, 5), trace=trace)
    for name, weight, n_heads in (("q", "wq", 8), ("k", "wk", 2)):
        projected = split_heads(trace[0]["a"] @ llama.weights[f"layers.0.{weight}"].T, n_heads)
        np.testing.assert_allclose(trace[0][name][:, :, 0], projected[:, :, 0], rtol=0, atol=1e-6)
        assert np.abs(trace[0][name][:, :, 1] - projected[:, :, 1]).max() > 0.1


def test_the_trace_holds_every_activation(random_llama):
    llama, ids, trace = random_llama(), random_ids(4, 5), []
    np.testing.assert_array_equal(llama(ids, trace=trace), llama(ids))
    np.testing.assert_array_equal(trace[0]["x"], llama.weights["embedding"][ids])
    np.testing.assert_array_equal(trace[1]["x"], trace[0]["out"])
    for layer in trace:
        shapes = {name: value.shape for name, value in layer.items() if isinstance(value, np.ndarray)}
        assert shapes == {"x": (4, 5, 20), "a": (4, 5, 20), "q": (4, 8, 5, 6), "k": (4, 2, 5, 6), "v": (4, 2, 5, 6),
                          "mixed": (4, 8, 5, 6), "h": (4, 5, 20), "f": (4, 5, 20), "out": (4, 5, 20)}
        assert [x.shape for x in layer["probabilities"]] == [(4, 8, 5, 5)]
        assert [x.shape for x in layer["hidden"]] == [(4, 5, 27), (4, 5, 27)]


def test_ids_may_be_a_list_of_any_whole_numbers(random_llama):
    llama = random_llama()
    for ids in ([3, 0, 32], np.array([3, 0, 32], np.uint8), (3, 0, np.int64(32))):
        np.testing.assert_array_equal(llama(ids), llama(np.array([3, 0, 32])))


def test_heads_are_runs_of_features():
    x = np.arange(2 * 3 * 8).reshape(2, 3, 8)
    heads = split_heads(x, 4)
    assert heads.shape == (2, 4, 3, 2)
    for head in range(4):
        np.testing.assert_array_equal(heads[:, head], x[..., 2 * head:2 * head + 2])
    np.testing.assert_array_equal(merge_heads(heads), x)


def test_the_weights_are_those_of_the_configuration(random_llama):
    shapes = weight_shapes(random_llama(n_layers=1).config)
    assert shapes == {"embedding": (33, 20), "layers.0.attn_norm": (20,), "layers.0.wq": (48, 20), "layers.0.wk": (12, 20),
                      "layers.0.wv": (12, 20), "layers.0.wo": (20, 48), "layers.0.ffn_norm": (20,), "layers.0.w_gate": (27, 20),
                      "layers.0.w_up": (27, 20), "layers.0.w_down": (20, 27), "final_norm": (20,), "lm_head": (33, 20)}
    assert weight_shapes(random_llama(n_layers=1, tied=True).config).keys() == shapes.keys() - {"lm_head"}


def test_weights_to_start_from_keep_the_size_of_what_goes_in_and_are_of_their_seed():
    config = LlamaConfig(dim=200, n_layers=2, n_heads=8, n_kv_heads=2, head_dim=6, hidden_dim=270, vocab_size=330, max_seq_len=64,
                         norm_eps=1e-5, theta_base=10_000.0, tied=False)
    weights, again, others = random_weights(config, 1), random_weights(config, 1), random_weights(config, 2)
    assert {name: weight.shape for name, weight in weights.items()} == weight_shapes(config)
    for name, weight in weights.items():
        assert weight.dtype == np.float32 and np.array_equal(weight, again[name])
        if name.endswith("norm"):
            assert (weight == 1).all()
        else:
            assert not np.array_equal(weight, others[name])
            width = weight.shape[1] ** -0.5 / (2 if name.endswith(("wo", "w_down")) else 1)    # 2 = sqrt(2 · n_layers)
            assert weight.std() == pytest.approx(width, rel=0.05)
    assert random_weights(config, 1, np.float64)["embedding"].dtype == np.float64


# what is refused

def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize("ids, found", [
    ([0.0, 1.0], "float64 [2]"),
    (np.zeros((2, 3), np.float32), "float32 [2, 3]"),
    ([True, False], "bool [2]"),
    (["a", "b"], "<U1 [2]"),
    ([], "float64 [0]"),
    (np.zeros((2, 0), int), "int64 [2, 0]"),
    (np.zeros((0, 3), int), "int64 [0, 3]"),
    (5, "int64 []"),
])
def test_ids_that_are_no_whole_numbers_are_refused(ids, found, random_llama):
    message = f"ids must be whole numbers [..., T] with T of 1 or more, not {found}"
    with refused(message):
        random_llama()(ids)
    with refused(message):
        random_llama().loss_and_grads(ids, ids)


@pytest.mark.parametrize("ids, low, high", [([0, -1, 5], -1, 5), ([0, 33], 0, 33), ([[1, 2], [-7, 99]], -7, 99)])
def test_ids_out_of_range_are_refused(ids, low, high, random_llama):
    message = f"token ids run from {low} to {high}; this model knows 0 to 32"
    with refused(message):
        random_llama()(ids)
    with refused(message):
        random_llama().loss_and_grads(ids, np.zeros_like(ids))


@pytest.mark.parametrize("targets, found", [
    ([3, 33], "int64 [2] from 3 to 33"),
    ([3, -2], "int64 [2] from -2 to 3"),
    ([3, 4, 5], "int64 [3] from 3 to 5"),
    ([[3, 4]], "int64 [1, 2] from 3 to 4"),
    ([3.0, 4.0], "float64 [2] from 3.0 to 4.0"),
])
def test_targets_that_do_not_fit_the_ids_are_refused(targets, found, random_llama):
    with refused(f"targets must be whole numbers [2] from -1 to 32, not {found}"):
        random_llama().loss_and_grads([1, 2], targets)
    loss, _ = random_llama().loss_and_grads([1, 2], [32, -1])                  # a list will do
    assert loss > 0


def test_more_ids_than_the_model_holds_are_refused(random_llama):
    llama = random_llama(max_seq_len=10)
    assert llama(random_ids(2, 10)).shape == (2, 10, 33)
    message = "11 tokens do not fit: this model holds 10 positions; shorten the text"
    with refused(message):
        llama(random_ids(2, 11))
    with refused(message):
        llama.loss_and_grads(random_ids(11), random_ids(11))


@pytest.mark.parametrize("size, room", [(None, 10), (7, 7), (99, 10)])
def test_more_ids_than_the_cache_holds_are_refused_and_the_cache_stays_as_it_was(size, room, random_llama):
    llama = random_llama(max_seq_len=10)
    cache = KVCache(llama.config, size)
    llama(random_ids(5), cache)
    with refused(f"{room + 1} tokens do not fit: this cache holds {room} positions; shorten the text"):
        llama(random_ids(room - 4), cache)
    assert cache.length == 5
    llama(random_ids(room - 5), cache)                                         # what does fit, goes on
    assert cache.length == room


def test_wrong_weights_are_all_named(random_llama):
    llama = random_llama()
    weights = {name: weight for name, weight in llama.weights.items() if name not in ("layers.1.wq", "final_norm")}
    weights |= {"layers.2.wq": weights["layers.0.wq"], "layers.0.wk": weights["layers.0.wk"].T, "lm_head": np.zeros((32, 20), np.float32)}
    with refused("weights do not fit the configuration: missing ['final_norm', 'layers.1.wq'], unexpected ['layers.2.wq'], "
                 "of a wrong shape ['layers.0.wk', 'lm_head']"):
        Llama(llama.config, weights)


def test_a_wrong_shape_alone_is_refused(random_llama):
    llama = random_llama()
    for name, weight in llama.weights.items():
        with refused(f"weights do not fit the configuration: missing [], unexpected [], of a wrong shape ['{name}']"):
            Llama(llama.config, llama.weights | {name: weight[1:]})


def test_a_tied_model_has_no_lm_head(random_llama):
    tied, untied = random_llama(tied=True), random_llama(tied=False)
    assert tied.lm_head is tied.weights["embedding"] and untied.lm_head is untied.weights["lm_head"]
    with refused("weights do not fit the configuration: missing [], unexpected ['lm_head'], of a wrong shape []"):
        Llama(tied.config, untied.weights)
    with refused("weights do not fit the configuration: missing ['lm_head'], unexpected [], of a wrong shape []"):
        Llama(untied.config, tied.weights)


@pytest.mark.parametrize("changed, dtype, found", [("layers.1.wo", np.float64, "['float32', 'float64']"),
                                                   ("embedding", np.float64, "['float32', 'float64']"),
                                                   ("final_norm", np.float16, "['float16', 'float32']"), ("all", np.float16, "['float16']"),
                                                   ("all", np.int64, "['int64']")])
def test_weights_of_another_dtype_are_refused(changed, dtype, found, random_llama):
    llama = random_llama()
    weights = {name: weight.astype(dtype) if changed in (name, "all") else weight for name, weight in llama.weights.items()}
    with refused(f"weights must all be float32 (or all float64), not {found}"):
        Llama(llama.config, weights)
