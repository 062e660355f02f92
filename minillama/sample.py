"""From logits to text: choosing the next token, and the loop that writes."""

import numpy as np

from .attention import KVCache
from .ops import softmax


def next_token_probabilities(logits, temperature=1.0, top_k=None, top_p=1.0):
    """The distribution that is sampled from. logits [..., vocab_size] → [..., vocab_size], float64.

    temperature: logits are divided by it; 0 leaves the most probable token alone (greedy).
    top_k:       only the k most probable tokens stay.
    top_p:       only the most probable tokens that together reach this mass stay
                 (nucleus; Holtzman et al. 2019, arXiv:1904.09751).
    Equal logits are ranked by id. Raises ValueError for settings out of range.
    """
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; it must be 0 (greedy) or more")
    if top_k is not None and (top_k != int(top_k) or top_k < 1):
        raise ValueError(f"top_k is {top_k}; it must be a whole number of 1 or more, or None")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it must be above 0 and at most 1")
    logits = np.asarray(logits, np.float64)
    if temperature == 0:
        return (np.arange(logits.shape[-1]) == logits.argmax(axis=-1)[..., None]).astype(np.float64)
    probabilities = softmax((logits - logits.max(axis=-1, keepdims=True)) / temperature)
    if top_k is None and top_p == 1:
        return probabilities
    order = np.argsort(-probabilities, axis=-1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=-1)
    keep = np.arange(logits.shape[-1]) < (top_k or logits.shape[-1])
    keep = keep & (ranked.cumsum(axis=-1) - ranked < top_p)                    # mass before this token: the first always stays
    np.put_along_axis(probabilities, order, ranked * keep, axis=-1)
    return probabilities / probabilities.sum(axis=-1, keepdims=True)


def sample_next(logits, rng, temperature=1.0, top_k=None, top_p=1.0):
    """Draw the next token. logits [..., vocab_size] → ids [...]; settings as in `next_token_probabilities`."""
    cumulative = next_token_probabilities(logits, temperature, top_k, top_p).cumsum(axis=-1)
    point = rng.random(cumulative.shape[:-1])[..., None] * cumulative[..., -1:]
    return (cumulative <= point).sum(axis=-1)


def stream(llama, tokenizer, prompt, max_new_tokens=200, temperature=0.8, top_k=None, top_p=1.0, seed=None):
    """Continue a prompt; yields the new text piece by piece, until an end-of-sequence token or `max_new_tokens`.

    Stops early where the model's context is full. Raises ValueError for a prompt longer than the context.
    """
    ids = tokenizer.encode(prompt)
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be 0 or more")
    next_token_probabilities(np.zeros(1), temperature, top_k, top_p)           # complain before any work
    if len(ids) > llama.config.max_seq_len:
        raise ValueError(f"the prompt is {len(ids)} tokens long, the model's context {llama.config.max_seq_len}; shorten the prompt")
    end = min(len(ids) + max_new_tokens, llama.config.max_seq_len)
    ends = {tokenizer.eos_id, *np.ravel(llama.config.eos_id)}                  # a config may name several

    def new_ids():
        rng = np.random.default_rng(seed)
        cache = KVCache(llama.config, end)
        latest = ids
        while cache.length + len(latest) < end:
            logits = llama(latest, cache, last=True)
            latest = [int(sample_next(logits[-1], rng, temperature, top_k, top_p))]
            if latest[0] in ends:
                return
            yield latest[0]

    text = tokenizer.stream(ids_after_prompt(ids, new_ids()))
    for _ in ids:
        next(text)
    yield from text


def ids_after_prompt(ids, new_ids):
    yield from ids
    yield from new_ids


def generate(llama, tokenizer, prompt, **settings):
    """The prompt and its continuation as one text; settings as in `stream`."""
    return prompt + "".join(stream(llama, tokenizer, prompt, **settings))
