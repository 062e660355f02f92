"""The next token is drawn from the distribution that the settings define, and writing stops where it must."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import VOCAB_SIZE, tiny_config, tiny_llama, tokenizer

import minillama as ml
from minillama.sample import next_token_probabilities, sample_next

assert tokenizer                                       # a fixture


def by_definition(logits, temperature=1.0, top_k=None, top_p=1.0):
    """The distribution in plain Python, token by token. top_k and top_p both look at the softmax over all tokens."""
    if temperature == 0:
        best = min(range(len(logits)), key=lambda i: (-logits[i], i))
        return [float(i == best) for i in range(len(logits))]
    weights = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    probabilities = [weight / math.fsum(weights) for weight in weights]
    kept, mass = set(), 0.0
    for rank, i in enumerate(sorted(range(len(logits)), key=lambda i: (-logits[i], i))):
        if (top_k is None or rank < top_k) and mass < top_p:
            kept.add(i)
        mass += probabilities[i]
    total = math.fsum(probabilities[i] for i in kept)
    return [probabilities[i] / total if i in kept else 0.0 for i in range(len(logits))]


HAND_MADE = [math.log(p) for p in (0.1, 0.4, 0.05, 0.15, 0.3)]


# ------------------------------------------------------------------ the distribution

@pytest.mark.parametrize("settings, expected", [
    ({}, [0.1, 0.4, 0.05, 0.15, 0.3]),
    ({"temperature": 0}, [0, 1, 0, 0, 0]),
    ({"temperature": 0.5}, [0.01 / 0.285, 0.16 / 0.285, 0.0025 / 0.285, 0.0225 / 0.285, 0.09 / 0.285]),
    ({"top_k": 1}, [0, 1, 0, 0, 0]),
    ({"top_k": 2}, [0, 4 / 7, 0, 0, 3 / 7]),
    ({"top_k": 5}, [0.1, 0.4, 0.05, 0.15, 0.3]),
    ({"top_k": 99}, [0.1, 0.4, 0.05, 0.15, 0.3]),
    ({"top_p": 1e-9}, [0, 1, 0, 0, 0]),
    ({"top_p": 0.39}, [0, 1, 0, 0, 0]),
    ({"top_p": 0.41}, [0, 4 / 7, 0, 0, 3 / 7]),
    ({"top_p": 0.69}, [0, 4 / 7, 0, 0, 3 / 7]),
    ({"top_p": 0.71}, [0, 0.4 / 0.85, 0, 0.15 / 0.85, 0.3 / 0.85]),
    ({"top_p": 0.94}, [0.1 / 0.95, 0.4 / 0.95, 0, 0.15 / 0.95, 0.3 / 0.95]),
    ({"top_p": 0.96}, [0.1, 0.4, 0.05, 0.15, 0.3]),
    ({"top_k": 3, "top_p": 0.41}, [0, 4 / 7, 0, 0, 3 / 7]),
    ({"top_k": 2, "top_p": 0.94}, [0, 4 / 7, 0, 0, 3 / 7]),
    ({"temperature": 0, "top_k": 3, "top_p": 0.9}, [0, 1, 0, 0, 0]),
])
def test_settings_keep_what_their_definition_says(settings, expected):
    probabilities = next_token_probabilities(HAND_MADE, **settings)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities, expected, rtol=1e-12, atol=0)


def test_top_p_judges_the_distribution_after_the_temperature():
    """At 0.5 the first token alone has a mass of 0.56, at 1 it has 0.4."""
    assert (next_token_probabilities(HAND_MADE, temperature=0.5, top_p=0.5) > 0).sum() == 1
    assert (next_token_probabilities(HAND_MADE, temperature=1.0, top_p=0.5) > 0).sum() == 2


def test_any_settings_on_any_logits_agree_with_the_definition():
    rng = np.random.default_rng(0)
    for _ in range(300):
        logits = rng.normal(0, 3, size=rng.integers(1, 12)).round(rng.integers(0, 4))      # with ties
        temperature = float(rng.choice([0, 0.3, 0.8, 1, 2.5]))
        top_k, top_p = (None, 1, 2, 5)[rng.integers(4)], float(rng.choice([0.05, 0.3, 0.613, 0.9, 1.0]))
        np.testing.assert_allclose(next_token_probabilities(logits, temperature, top_k, top_p),
                                   by_definition(logits.tolist(), temperature, top_k, top_p), rtol=1e-9, atol=1e-15)


def test_of_equal_logits_those_with_lower_ids_rank_first():
    logits = np.array([1.0, 3, 3, 1, 3, 3])
    assert next_token_probabilities(logits, temperature=0).tolist() == [0, 1, 0, 0, 0, 0]
    assert next_token_probabilities(logits, top_k=1).tolist() == [0, 1, 0, 0, 0, 0]
    assert next_token_probabilities(logits, top_k=3).nonzero()[0].tolist() == [1, 2, 4]
    assert next_token_probabilities(np.zeros(4), top_p=0.5).tolist() == [0.5, 0.5, 0, 0]
    assert next_token_probabilities(np.zeros(4), top_p=0.51).nonzero()[0].tolist() == [0, 1, 2]


def test_leading_axes_are_kept_apart():
    logits = np.random.default_rng(1).normal(size=(3, 2, 7)).astype(np.float32)
    for settings in ({}, {"temperature": 0}, {"temperature": 0.7, "top_k": 3}, {"top_p": 0.6}):
        probabilities = next_token_probabilities(logits, **settings)
        assert probabilities.shape == (3, 2, 7)
        for i in np.ndindex(3, 2):
            np.testing.assert_allclose(probabilities[i], by_definition(logits[i].tolist(), **settings), rtol=1e-9)


def test_logits_are_left_as_they_were():
    logits = np.array([1.0, 2.0, 0.5])
    next_token_probabilities(logits, 0.5, 2, 0.9)
    assert logits.tolist() == [1.0, 2.0, 0.5]


@pytest.mark.filterwarnings("error")
def test_extreme_logits_and_temperatures_neither_overflow_nor_warn():
    assert next_token_probabilities([1e4, 0.0, -1e4]).tolist() == [1, 0, 0]
    assert next_token_probabilities([-np.inf, 2.0, 2.0, -np.inf]).tolist() == [0, 0.5, 0.5, 0]
    assert next_token_probabilities([0.0, 1.0, 0.5], temperature=1e-5).tolist() == [0, 1, 0]
    np.testing.assert_allclose(next_token_probabilities([0.0, 5.0, -5.0], temperature=1e9), [1 / 3] * 3, rtol=1e-7)
    assert next_token_probabilities(np.float32([3e38, -3e38]), temperature=0.5).tolist() == [1, 0]


@pytest.mark.parametrize("settings, message", [
    ({"temperature": -0.1}, "temperature is -0.1; it must be 0 (greedy) or more"),
    ({"temperature": float("nan")}, "temperature is nan; it must be 0 (greedy) or more"),
    ({"temperature": float("inf")}, "temperature is inf; it must be 0 (greedy) or more"),
    ({"top_k": 0}, "top_k is 0; it must be a whole number of 1 or more, or None"),
    ({"top_k": -1}, "top_k is -1; it must be a whole number of 1 or more, or None"),
    ({"top_k": 2.5}, "top_k is 2.5; it must be a whole number of 1 or more, or None"),
    ({"top_p": 0}, "top_p is 0; it must be above 0 and at most 1"),
    ({"top_p": -0.5}, "top_p is -0.5; it must be above 0 and at most 1"),
    ({"top_p": 1.01}, "top_p is 1.01; it must be above 0 and at most 1"),
    ({"top_p": float("nan")}, "top_p is nan; it must be above 0 and at most 1"),
])
def test_settings_out_of_range_are_refused(settings, message, tokenizer):
    for call in (lambda: next_token_probabilities(HAND_MADE, **settings), lambda: sample_next(np.array(HAND_MADE), None, **settings),
                 lambda: ml.generate(tiny_llama(), tokenizer, "a", **settings)):
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value) == message


# ------------------------------------------------------------------ drawing

@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6}, {"temperature": 1.7, "top_k": 4}, {"top_p": 0.7}])
def test_tokens_are_drawn_as_often_as_the_distribution_says(settings):
    logits = np.array([0.3, -1.0, 2.0, 0.0, 1.5, -3.0, 1.5], np.float32)
    n, expected = 200_000, np.array(by_definition(logits.tolist(), **settings))
    drawn = sample_next(np.broadcast_to(logits, (n, 7)), np.random.default_rng(2), **settings)
    frequencies = np.bincount(drawn, minlength=7) / n
    assert drawn.shape == (n,) and len(frequencies) == 7
    assert (np.abs(frequencies - expected) <= 5 * np.sqrt(expected * (1 - expected) / n)).all()
    assert (frequencies[expected == 0] == 0).all()


def test_a_draw_is_the_token_into_whose_share_the_random_number_falls():
    logits = np.log([0.25, 0.5, 0.25])
    at = lambda point: int(sample_next(logits, SimpleNamespace(random=lambda shape: np.full(shape, point))))
    assert [at(point) for point in (0, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2.0**-53)] == [0, 0, 1, 1, 2, 2]


def test_tokens_without_probability_are_never_drawn_at_the_ends_of_the_range():
    logits = np.array([-np.inf, -np.inf, 1.0, 1.0, -np.inf])
    at = lambda point: int(sample_next(logits, SimpleNamespace(random=lambda shape: np.full(shape, point))))
    assert [at(point) for point in (0.0, 0.4999, 0.5001, 1 - 2.0**-53)] == [2, 2, 3, 3]


def test_greedy_takes_the_likeliest_whatever_the_random_numbers():
    logits = np.random.default_rng(3).normal(size=(50, 9))
    for seed in range(3):
        assert (sample_next(logits, np.random.default_rng(seed), temperature=0) == logits.argmax(axis=-1)).all()


# ------------------------------------------------------------------ writing

class Scripted:
    """A model that has only one thing to say, and that checks how it is asked: the prompt once, then token by token."""

    def __init__(self, script, **settings):
        self.config, self.script, self.asked = tiny_config(**settings), list(script), []

    def __call__(self, ids, cache, last):
        assert last and len(ids) == (1 if self.asked else cache.max_seq_len - self.room) and cache.length == sum(map(len, self.asked))
        self.asked.append(list(ids))
        cache.length += len(ids)
        logits = np.zeros((1, VOCAB_SIZE), np.float32)
        logits[0, self.script[len(self.asked) - 1]] = 100
        return logits


def written(tokenizer, script, prompt="a", max_new_tokens=200, max_seq_len=40, **settings):
    llama = Scripted(script, max_seq_len=max_seq_len, **settings)
    n = len(tokenizer.encode(prompt))
    llama.room = min(max_new_tokens, max_seq_len - n)
    pieces = list(ml.stream(llama, tokenizer, prompt, max_new_tokens=max_new_tokens, seed=0))
    assert not llama.asked or llama.asked[0] == tokenizer.encode(prompt)
    return pieces, llama.asked


def test_writing_stops_at_the_end_of_sequence(tokenizer):
    words = tokenizer.encode(" fox and fox", bos=False)
    pieces, asked = written(tokenizer, [*words, tokenizer.eos_id, *words])
    assert "".join(pieces) == "  fox and fox" and len(asked) == len(words) + 1


def test_writing_stops_at_once_where_the_sequence_ends_at_once(tokenizer):
    pieces, asked = written(tokenizer, [tokenizer.eos_id])
    assert "".join(pieces) == "" and len(asked) == 1


def test_writing_stops_at_every_end_that_the_config_names(tokenizer):
    the, a = (tokenizer.model.piece_to_id(piece) for piece in ("▁the", "▁a"))
    for end in (9, 11, tokenizer.eos_id):
        pieces, asked = written(tokenizer, [the, end, a], eos_id=[9, 11])
        assert "".join(pieces) == " the" and len(asked) == 2


@pytest.mark.parametrize("max_new_tokens", [0, 1, 2, 5])
def test_writing_stops_after_max_new_tokens(tokenizer, max_new_tokens):
    the = tokenizer.model.piece_to_id("▁the")
    pieces, asked = written(tokenizer, [the] * 40, max_new_tokens=max_new_tokens)
    assert "".join(pieces) == " the" * max_new_tokens and len(asked) == max_new_tokens


@pytest.mark.parametrize("max_seq_len", [2, 3, 9])
def test_writing_stops_where_the_context_is_full(tokenizer, max_seq_len):
    the = tokenizer.model.piece_to_id("▁the")
    prompt_tokens = len(tokenizer.encode("a"))         # begin-of-sequence and the letter
    pieces, asked = written(tokenizer, [the] * 40, max_seq_len=max_seq_len)
    assert prompt_tokens == 2
    assert "".join(pieces) == " the" * (max_seq_len - prompt_tokens)


def test_a_prompt_longer_than_the_context_is_refused(tokenizer):
    llama = tiny_llama(max_seq_len=10)
    prompt = "a" * 200
    n = len(tokenizer.encode(prompt))
    with pytest.raises(ValueError) as error:
        ml.generate(llama, tokenizer, prompt)
    assert str(error.value) == f"the prompt is {n} tokens long, the model's context 10; shorten the prompt"


def test_a_prompt_that_fills_the_context_is_returned_as_it_is(tokenizer):
    prompt = "the fox and the fox"
    llama = tiny_llama(max_seq_len=len(tokenizer.encode(prompt)))
    assert ml.generate(llama, tokenizer, prompt) == prompt


def test_a_negative_number_of_new_tokens_is_refused(tokenizer):
    with pytest.raises(ValueError, match="^max_new_tokens is -1; it must be 0 or more$"):
        ml.generate(tiny_llama(), tokenizer, "a", max_new_tokens=-1)


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 0.9}, {"temperature": 1.3, "top_k": 20}, {"top_p": 0.8}])
def test_a_text_equals_the_one_that_is_written_without_a_cache(tokenizer, settings):
    llama, prompt = tiny_llama(seed=4), "the fox"
    ids, rng, n_prompt = tokenizer.encode(prompt), np.random.default_rng(6), len(tokenizer.encode(prompt))
    while len(ids) < n_prompt + 25:
        id = int(sample_next(llama(ids)[-1], rng, **{"temperature": 0.8} | settings))
        if id == tokenizer.eos_id:
            break
        ids.append(id)
    assert ml.generate(llama, tokenizer, prompt, max_new_tokens=25, seed=6, **settings) == tokenizer.decode(ids)
    assert len(set(ids[n_prompt:])) > 3


def test_the_seed_decides_the_text(tokenizer):
    llama = tiny_llama(seed=4)
    texts = [ml.generate(llama, tokenizer, "the fox", max_new_tokens=25, seed=seed) for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1] and len(set(texts)) == 3
    assert len({ml.generate(llama, tokenizer, "the fox", max_new_tokens=25) for _ in range(3)}) > 1
    assert len({ml.generate(llama, tokenizer, "the fox", max_new_tokens=25, temperature=0, seed=seed) for seed in range(3)}) == 1


def test_generate_returns_the_prompt_and_what_stream_yields(tokenizer):
    llama = tiny_llama(seed=4)
    for prompt in ("the fox", "", "  two spaces", "a\n", "🦙"):
        text = ml.generate(llama, tokenizer, prompt, max_new_tokens=12, seed=1)
        assert text.startswith(prompt)
        assert text == prompt + "".join(ml.stream(llama, tokenizer, prompt, max_new_tokens=12, seed=1))


def test_each_token_is_yielded_before_the_next_is_computed(tokenizer):
    the = tokenizer.model.piece_to_id("▁the")
    llama = Scripted([the] * 40)
    llama.room = 6
    stream = ml.stream(llama, tokenizer, "a", max_new_tokens=6, seed=0)
    for n in range(1, 7):
        assert next(stream) == " the"
        assert len(llama.asked) == n


def test_without_a_prompt_the_text_begins_without_a_space(tokenizer):
    the = tokenizer.model.piece_to_id("▁the")
    pieces, _ = written(tokenizer, [the] * 3 + [tokenizer.eos_id], prompt="")
    assert "".join(pieces) == "the the the"


def test_a_character_of_several_bytes_is_written_once_it_is_whole(tokenizer):
    script = [tokenizer.model.piece_to_id(f"<0x{byte:02X}>") for byte in "🦙".encode()]
    pieces, _ = written(tokenizer, [*script, tokenizer.eos_id])
    assert [piece for piece in pieces if piece] == ["🦙"]
    pieces, _ = written(tokenizer, [*script[:3], tokenizer.eos_id])
    assert "".join(pieces) == "\ufffd"
