"""Each piece of training does what its formula says, and a run that was stopped goes on bit for bit."""

import math

import numpy as np
import pytest
from tiny import tiny_llama

from minillama.checkpoint import hugging_face_name, read_header, write_safetensors
from minillama.model import random_weights
from minillama.train import AdamW, batch, batch_loss_and_grads, clip_gradients, learning_rate, pad, resume, save_state, train
from minillama import Llama
from minillama.ops import cross_entropy


# ------------------------------------------------------------------ AdamW

def adamw_by_definition(weight, grads, rates, beta1, beta2, eps, decay):
    """Algorithm 2 of arXiv:1711.05101, one number at a time, in double precision."""
    m = v = 0.0
    for t, (grad, rate) in enumerate(zip(grads, rates, strict=True), start=1):
        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        weight = weight - rate * (m_hat / (math.sqrt(v_hat) + eps) + decay * weight)
    return weight


NAMES = {"embedding": 0.0, "layers.0.attn_norm": 0.0, "layers.3.ffn_norm": 0.0, "final_norm": 0.0, "layers.0.wq": 0.3, "layers.3.w_down": 0.3,
         "lm_head": 0.3}                               # what is decayed, by 0.3 if at all


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 3e-6)])
def test_adamw_follows_its_formula_and_decays_neither_norms_nor_the_embedding(steps, dtype, tolerance):
    rng = np.random.default_rng(steps)
    settings = dict(beta1=0.8, beta2=0.9, eps=1e-3)
    weights = {name: rng.normal(size=(3, 2)).astype(dtype) for name in NAMES}
    before = {name: weight.copy() for name, weight in weights.items()}
    grads = [{name: rng.normal(0, 2, size=(3, 2)).astype(dtype) for name in NAMES} for _ in range(steps)]
    rates = [0.1 / (1 + step) for step in range(steps)]
    optimizer = AdamW(weights, weight_decay=0.3, **settings)
    for grad, rate in zip(grads, rates):
        optimizer.step(weights, grad, rate)
    assert optimizer.steps == steps
    for name, decay in NAMES.items():
        assert weights[name].dtype == dtype
        for i in np.ndindex(3, 2):
            expected = adamw_by_definition(float(before[name][i]), [float(g[name][i]) for g in grads], rates, decay=decay, **settings)
            assert abs(weights[name][i] - expected) < tolerance, name


def test_the_first_step_of_adamw_is_the_learning_rate_in_the_direction_of_the_sign():
    weights = {"layers.0.wq": np.zeros(4)}
    AdamW(weights).step(weights, {"layers.0.wq": np.array([1e-3, -5.0, 200.0, 0.0])}, 0.01)
    np.testing.assert_allclose(weights["layers.0.wq"], [-0.01, 0.01, -0.01, 0], rtol=1e-4)


def test_adamw_works_in_place_and_leaves_the_gradients_alone():
    weights, grads = {"wq": np.ones(3, np.float32)}, {"wq": np.array([1, 2, 3], np.float32)}
    same = weights["wq"]
    AdamW(weights).step(weights, grads, 0.1)
    assert weights["wq"] is same and (same < 1).all()
    assert grads["wq"].tolist() == [1, 2, 3]


def test_every_weight_of_a_llama_but_norms_and_embedding_is_decayed():
    llama = tiny_llama()
    before = {name: weight.copy() for name, weight in llama.weights.items()}
    AdamW(llama.weights, weight_decay=0.5).step(llama.weights, {name: np.zeros_like(w) for name, w in before.items()}, 0.1)
    kept = {name for name, weight in llama.weights.items() if (weight == before[name]).all()}
    assert kept == {"embedding", "final_norm", *(f"layers.{i}.{norm}" for i in range(2) for norm in ("attn_norm", "ffn_norm"))}
    for name in llama.weights.keys() - kept:
        np.testing.assert_allclose(llama.weights[name], 0.95 * before[name], rtol=1e-6)


# ------------------------------------------------------------------ learning rate and clipping

def test_the_learning_rate_rises_in_a_line_and_falls_in_half_a_cosine():
    rate = lambda step: learning_rate(step, steps=101, peak=2.0, warmup=20, floor=0.1)
    assert rate(0) == pytest.approx(0.1, rel=1e-12)
    assert rate(9) == pytest.approx(1.0, rel=1e-12)
    assert rate(19) == rate(20) == 2.0
    assert rate(60) == pytest.approx(2 * (0.1 + 0.9 * 0.5), rel=1e-12)                        # half-way down
    assert rate(40) == pytest.approx(2 * (0.1 + 0.9 * 0.5 * (1 + math.sqrt(0.5))), rel=1e-12)
    assert rate(100) == pytest.approx(0.2, rel=1e-12)
    assert rate(500) == pytest.approx(0.2, rel=1e-12)                                         # and it stays there
    rates = [rate(step) for step in range(101)]
    assert all(a < b for a, b in zip(rates[:19], rates[1:20])) and all(a > b for a, b in zip(rates[20:], rates[21:]))


@pytest.mark.parametrize("steps, warmup, expected", [(1, 0, [3.0]), (2, 0, [3.0, 0.6]), (3, 2, [1.5, 3.0, 3.0]), (2, 4, [0.75, 1.5]),
                                                     (4, 1, [3.0, 3.0, 1.8, 0.6])])
def test_the_learning_rate_is_defined_at_the_corners(steps, warmup, expected):
    assert [learning_rate(step, steps, 3.0, warmup, floor=0.2) for step in range(steps)] == pytest.approx(expected, rel=1e-12)


def test_gradients_are_shrunk_together_to_the_greatest_norm():
    grads = {"a": np.array([[3.0, 0.0]], np.float32), "b": np.array([4.0, 12.0], np.float32)}
    assert clip_gradients(grads, 6.5) == pytest.approx(13, rel=1e-7)
    np.testing.assert_allclose(grads["a"], [[1.5, 0]], rtol=1e-6)
    np.testing.assert_allclose(grads["b"], [2, 6], rtol=1e-6)
    assert grads["a"].dtype == np.float32


def test_gradients_within_the_greatest_norm_are_not_touched():
    grads = {"a": np.array([3.0, 4.0])}
    assert clip_gradients(grads, 5.0) == 5.0 and grads["a"].tolist() == [3, 4]
    assert clip_gradients(grads, 100.0) == 5.0 and grads["a"].tolist() == [3, 4]
    zero = {"a": np.zeros(2)}
    assert clip_gradients(zero, 1.0) == 0 and zero["a"].tolist() == [0, 0]


# ------------------------------------------------------------------ batches

def test_every_epoch_takes_each_document_once_in_an_order_of_its_own():
    documents = [[i] for i in range(24)]
    epochs = [[document[0] for step in range(epoch * 4, epoch * 4 + 4) for document in batch(documents, step, 6, seed=3)] for epoch in range(5)]
    for order in epochs:
        assert sorted(order) == list(range(24)) and order != list(range(24))
    assert len(set(map(tuple, epochs))) == 5


def test_where_documents_are_left_over_no_epoch_takes_one_twice():
    documents = [[i] for i in range(23)]
    left_over = set()
    for epoch in range(40):
        taken = [document[0] for step in range(epoch * 3, epoch * 3 + 3) for document in batch(documents, step, 7, seed=3)]
        assert len(taken) == len(set(taken)) == 21
        left_over |= set(range(23)) - set(taken)
    assert len(left_over) > 15                         # not always the same


def test_a_batch_depends_on_its_step_and_the_seed_alone():
    documents = [[i] for i in range(30)]
    assert batch(documents, 17, 4, seed=1) == batch(documents, 17, 4, seed=1)
    assert batch(documents, 17, 4, seed=1) != batch(documents, 17, 4, seed=2)
    assert len(batch(documents, 17, 4, seed=1)) == 4


def test_too_few_documents_for_a_batch_are_refused():
    with pytest.raises(ValueError, match="^3 documents do not make one batch of 4$"):
        batch([[1], [2], [3]], 0, 4, seed=0)


def test_padding_predicts_each_token_from_those_before_it_and_nothing_behind_the_end():
    ids, targets = pad([[1, 5, 6, 2], [1, 7], np.array([1, 8, 2], np.uint16)])
    assert ids.tolist() == [[1, 5, 6], [1, 0, 0], [1, 8, 0]]
    assert targets.tolist() == [[5, 6, 2], [7, -1, -1], [8, 2, -1]]
    assert ids.dtype.kind == targets.dtype.kind == "i"


def some_documents(n, seed, longest=30, vocab_size=353):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab_size, size=rng.integers(2, longest)).tolist() for _ in range(n)]


def test_the_loss_of_a_batch_is_the_mean_over_all_its_tokens():
    llama, documents = tiny_llama(), some_documents(5, seed=1)
    losses = [cross_entropy(llama(document[:-1]), np.array(document[1:])) for document in documents]
    loss, _, tokens = batch_loss_and_grads(llama, documents)
    assert tokens == sum(len(document) - 1 for document in documents)
    assert loss == pytest.approx(sum(x.sum(dtype=np.float64) for x in losses) / tokens, rel=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_a_batch_gives_the_same_in_small_parts_and_in_any_order(tied):
    llama, documents = tiny_llama(tied=tied), some_documents(7, seed=2)
    loss, grads, tokens = batch_loss_and_grads(llama, documents, micro_batch=7)
    for micro_batch, some in ((1, documents), (2, documents[::-1]), (4, documents), (50, documents)):
        loss_2, grads_2, tokens_2 = batch_loss_and_grads(llama, some, micro_batch)
        assert tokens_2 == tokens and loss_2 == pytest.approx(loss, rel=1e-6) and grads_2.keys() == llama.weights.keys()
        for name, grad in grads.items():
            assert np.abs(grads_2[name] - grad).max() < 1e-5 * np.abs(grad).max(), name


def test_a_small_step_against_the_gradient_lowers_the_loss_by_its_square():
    """The gradient of the mean, not of the sum: loss falls by rate · |gradient|²."""
    llama, documents = tiny_llama(), some_documents(6, seed=3)
    llama = Llama(llama.config, {name: weight.astype(np.float64) for name, weight in llama.weights.items()})
    loss, grads, _ = batch_loss_and_grads(llama, documents)
    square = sum(float((grad**2).sum()) for grad in grads.values())
    rate = 1e-6
    for name, grad in grads.items():
        llama.weights[name] -= rate * grad
    assert loss - batch_loss_and_grads(llama, documents)[0] == pytest.approx(rate * square, rel=1e-3)


# ------------------------------------------------------------------ the loop

SETTINGS = dict(steps=11, batch_size=3, peak_learning_rate=3e-3, warmup=3, seed=5, save_every=3, report_every=2)


def silent(line):
    pass


def small_llama(seed=0, **changes):
    return tiny_llama(seed, vocab_size=19, dim=12, n_heads=4, max_seq_len=16, **changes)


DOCUMENTS = some_documents(10, seed=4, longest=15, vocab_size=19)                             # not divisible by the batch size


def test_training_follows_its_parts_step_by_step():
    llama, ours = small_llama(), small_llama()
    losses = train(llama, DOCUMENTS, report=silent, weight_decay=0.2, max_norm=0.7, **SETTINGS)
    optimizer, expected = AdamW(ours.weights, weight_decay=0.2), []
    for step in range(11):
        loss, grads, _ = batch_loss_and_grads(ours, batch(DOCUMENTS, step, 3, seed=5))
        clip_gradients(grads, 0.7)
        optimizer.step(ours.weights, grads, learning_rate(step, 11, 3e-3, 3))
        expected.append(loss)
    assert losses == expected
    assert all((llama.weights[name] == weight).all() for name, weight in ours.weights.items())


def test_loss_and_gradients_may_be_computed_elsewhere():
    """Two halves that are computed apart, as two processes would, train the same model."""
    def in_halves(llama, documents):
        parts = [batch_loss_and_grads(llama, half) for half in (documents[:2], documents[2:])]
        tokens = sum(n for _, _, n in parts)
        return (sum(loss * n for loss, _, n in parts) / tokens,
                {name: sum(grads[name] * (n / tokens) for _, grads, n in parts) for name in llama.weights}, tokens)

    whole, halves = small_llama(), small_llama()
    losses = train(whole, DOCUMENTS, report=silent, **SETTINGS)
    np.testing.assert_allclose(train(halves, DOCUMENTS, report=silent, loss_and_grads=in_halves, **SETTINGS), losses, rtol=1e-4)
    for name, weight in whole.weights.items():
        np.testing.assert_allclose(halves.weights[name], weight, atol=1e-3)


class Stopped(Exception):
    pass


def stop_after(step):
    """A report that stops the run like a pulled plug: after the step is computed, before it is saved."""
    def report(line):
        words = line.split()
        if words[0] == "step" and int(words[1]) == step:
            raise Stopped
    return report


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("stops", [(1,), (2,), (3,), (4,), (7,), (11,), (2, 4, 5, 10), (5, 5, 5), (9, 10, 11)])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path, stops, tied):
    settings = SETTINGS | {"report_every": 1}
    whole = small_llama(tied=tied)
    expected = train(whole, DOCUMENTS, report=silent, **settings)
    path = tmp_path / "state"
    for stop in stops:
        with pytest.raises(Stopped):
            train(small_llama(tied=tied), DOCUMENTS, checkpoint=path, report=stop_after(stop), **settings)
    llama = small_llama(seed=99, tied=tied)            # its own weights must not matter once a state exists
    if not path.exists():
        llama = small_llama(tied=tied)
    losses = train(llama, DOCUMENTS, checkpoint=path, report=silent, **settings)
    assert losses == expected
    for name, weight in whole.weights.items():
        assert (llama.weights[name].view(np.uint32) == weight.view(np.uint32)).all(), name


def test_a_state_holds_the_last_saved_step_and_a_stop_in_between_loses_only_the_steps_since(tmp_path):
    path, lines = tmp_path / "state", []
    with pytest.raises(Stopped):
        train(small_llama(), DOCUMENTS, checkpoint=path, report=stop_after(5), **SETTINGS | {"report_every": 1})
    train(small_llama(), DOCUMENTS, checkpoint=path, report=lines.append, **SETTINGS | {"report_every": 1})
    assert lines[0] == "going on after step 3" and lines[1].split()[1] == "4" and len(lines) == 1 + 8


def test_a_finished_run_goes_nowhere(tmp_path):
    path, lines = tmp_path / "state", []
    llama = small_llama()
    losses = train(llama, DOCUMENTS, checkpoint=path, report=silent, **SETTINGS)
    again = small_llama(seed=7)
    before = path.read_bytes()
    assert train(again, DOCUMENTS, checkpoint=path, report=lines.append, **SETTINGS) == losses
    assert lines == ["going on after step 11"]         # the last step is saved, though 11 is no multiple of save_every
    assert all((again.weights[name] == weight).all() for name, weight in llama.weights.items())
    assert path.read_bytes() == before


def test_saving_leaves_one_file_and_training_without_a_checkpoint_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(small_llama(), DOCUMENTS, report=silent, **SETTINGS)
    assert list(tmp_path.iterdir()) == []
    train(small_llama(), DOCUMENTS, checkpoint="state", report=silent, **SETTINGS)
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def test_a_state_holds_losses_and_moments_without_rounding(tmp_path):
    llama, rng = small_llama(), np.random.default_rng(0)
    optimizer = AdamW(llama.weights)
    for name in llama.weights:
        optimizer.m[name] += rng.normal(size=optimizer.m[name].shape).astype(np.float32)
        optimizer.v[name] += rng.random(optimizer.v[name].shape).astype(np.float32)
    losses = [math.pi, 1 / 3, 1e-300]
    save_state(tmp_path / "state", llama, optimizer, losses)
    other = small_llama(seed=1)
    its_optimizer = AdamW(other.weights)
    assert resume(tmp_path / "state", other, its_optimizer) == losses and its_optimizer.steps == 3
    for name, weight in llama.weights.items():
        assert (other.weights[name] == weight).all()
        assert (its_optimizer.m[name] == optimizer.m[name]).all() and (its_optimizer.v[name] == optimizer.v[name]).all()


@pytest.mark.parametrize("changes, words", [
    ({"hidden_dim": 30}, "w_gate is [28, 12], expected [30, 12]"),
    ({"vocab_size": 20}, "embedding is [19, 12], expected [20, 12]"),
    ({"n_layers": 3}, "layers.2."),
    ({"n_layers": 1}, "layers.1."),
    ({"tied": True}, "lm_head"),
])
def test_the_state_of_another_model_is_refused_and_changes_nothing(tmp_path, changes, words):
    path = tmp_path / "state"
    train(small_llama(), DOCUMENTS, checkpoint=path, report=silent, **SETTINGS)
    llama = Llama((config := tiny_llama(**{"vocab_size": 19, "dim": 12, "n_heads": 4, "max_seq_len": 16} | changes).config),
                  random_weights(config, seed=1))
    before = {name: weight.copy() for name, weight in llama.weights.items()}
    with pytest.raises(ValueError) as error:
        train(llama, DOCUMENTS, checkpoint=path, report=silent, **SETTINGS)
    message = str(error.value)
    assert message.startswith(f"{path}: the state of another model") and words in message and message.endswith("give it another path or delete it")
    assert all((weight == before[name]).all() for name, weight in llama.weights.items())


def test_the_state_of_an_untied_model_is_refused_by_a_tied_one_and_the_other_way_round(tmp_path):
    for tied in (False, True):
        path = tmp_path / str(tied)
        save_state(path, llama := small_llama(tied=tied), AdamW(llama.weights), [1.0])
        other = small_llama(tied=not tied)
        with pytest.raises(ValueError, match="the state of another model"):
            resume(path, other, AdamW(other.weights))


def test_files_that_are_no_state_are_refused_by_name(tmp_path):
    llama, path = small_llama(), tmp_path / "state"
    weights = {hugging_face_name(name): weight for name, weight in llama.weights.items()}
    state = {f"{kind}.{name}": weight for kind in ("weights", "m", "v") for name, weight in llama.weights.items()}
    for tensors in (weights, state, {}):
        write_safetensors(path, tensors)
        with pytest.raises(ValueError) as error:
            train(llama, DOCUMENTS, checkpoint=path, report=silent, **SETTINGS)
        assert str(error.value).startswith(f"{path}: ")
    path.write_bytes(b"no state at all")
    with pytest.raises(ValueError) as error:
        train(llama, DOCUMENTS, checkpoint=path, report=silent, **SETTINGS)
    assert str(error.value).startswith(f"{path}: ")


def test_a_state_is_a_safetensors_file_of_float32(tmp_path):
    train(small_llama(), DOCUMENTS, checkpoint=tmp_path / "state", report=silent, **SETTINGS)
    places = read_header(tmp_path / "state")
    assert {place[1] for place in places.values()} == {"F32"} and len(places) == 3 * len(small_llama().weights) + 1


def test_a_document_longer_than_the_context_is_refused_before_training():
    llama = small_llama()
    before = llama.weights["final_norm"].copy()
    with pytest.raises(ValueError, match="^a document has 17 tokens to learn from, the model's context is 16$"):
        train(llama, [*DOCUMENTS, [1] * 18], report=silent, **SETTINGS)
    assert (llama.weights["final_norm"] == before).all()
    train(llama, [*DOCUMENTS, [1] * 17], report=silent, **SETTINGS)


def test_progress_tells_step_loss_and_speed():
    lines = []
    losses = train(small_llama(), DOCUMENTS, report=lines.append, **SETTINGS | {"report_every": 4})
    assert [line.split()[:4] for line in lines] == [["step", str(step), "of", "11"] for step in (4, 8, 11)]
    assert [float(line.split()[5]) for line in lines[:2]] == [pytest.approx(sum(losses[i:i + 4]) / 4, abs=6e-5) for i in (0, 4)]
    assert all(line.endswith(" tokens/s") and float(line.split()[6]) > 0 for line in lines)


def test_a_model_learns_to_copy_what_it_has_just_read():
    """Each document is a short word, a mark and the word again: what stands behind the mark can be known, the rest cannot."""
    rng = np.random.default_rng(8)
    words = [rng.integers(3, 19, size=3).tolist() for _ in range(400)]
    documents = [[1, *word, 2, *word] for word in words]
    llama = Llama((config := small_llama(n_layers=2).config), random_weights(config, seed=2))
    before, _, _ = batch_loss_and_grads(llama, batch(documents, 0, 16, 0))
    losses = train(llama, documents, steps=150, batch_size=16, peak_learning_rate=2e-2, warmup=10, report=silent, weight_decay=0.0)
    assert losses[0] == pytest.approx(before, rel=1e-6)
    knowable = 3 * math.log(16) / 7                    # the first word costs this much, whatever is learned
    assert sum(losses[-10:]) / 10 < (math.log(19) + knowable) / 2
    fresh = [[1, *word, 2, *word] for word in (rng.integers(3, 19, size=3).tolist() for _ in range(50))]
    ids, targets = pad(fresh)
    losses = cross_entropy(llama(ids), targets)
    assert losses[:, 3].mean() < 0.2                   # the mark always stands there
    assert losses[:, 4:].mean() < 0.75 * math.log(16)  # better than guessing
