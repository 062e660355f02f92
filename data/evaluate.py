"""Measure the checkpoint that ships, or another one, on stories that it has never seen.

    python data/evaluate.py [FOLDER]
"""

import math
import re
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from stories import is_coherent, tell, vocabulary, words

from minillama import generate, load
from minillama.ops import cross_entropy
from minillama.train import pad

HELD_OUT = 10_000_000                                  # training uses the seeds from 0 on
SAMPLES = range(20_000, 21_000)                        # dice of the sampled stories; those of lower seeds were looked at while recipes were chosen
BATCH = 16


def held_out(n):
    return [tell(seed) for seed in range(HELD_OUT, HELD_OUT + n)]


def predictions(llama, documents):
    """For every document: its tokens, the model's loss on each and its first choice for each, all from the second token on."""
    results = [None] * len(documents)
    order = sorted(range(len(documents)), key=lambda i: len(documents[i]))
    for first in range(0, len(documents), BATCH):
        chosen = order[first:first + BATCH]
        ids, targets = pad([documents[i] for i in chosen])
        logits = llama(ids)
        for i, losses, best, document in zip(chosen, cross_entropy(logits, targets), logits.argmax(axis=-1), (documents[i] for i in chosen)):
            n = len(document) - 1
            results[i] = np.array(document[1:]), losses[:n], best[:n]
    return results


def loss_and_bound(llama, tokenizer, stories):
    """Mean loss per token, and the bound that the generator's own choices set; both in nats per token."""
    documents = [[*tokenizer.encode(story.text), tokenizer.eos_id] for story in stories]
    results = predictions(llama, documents)
    tokens = sum(len(losses) for _, losses, _ in results)
    loss = sum(float(losses.sum()) for _, losses, _ in results) / tokens
    return loss, math.log(2) * sum(story.bits for story in stories) / tokens, tokens


def answered(llama, tokenizer, stories):
    """For every question: (fact's kind of answer, whether the model's greedy answer is exactly right).

    Greedy writing gives an answer exactly when each of its tokens is the model's first choice behind those before it.
    """
    documents, spans = [], []
    for story in stories:
        text = story.body
        for question, answer in story.questions:
            text += f"\nQuestion: {question} Answer:"
            start = len(tokenizer.encode(text))
            text += f" {answer}"
            spans.append((len(documents), start - 1, len(tokenizer.encode(text)) - 1, question))
        documents.append(tokenizer.encode(text))
    results = predictions(llama, documents)
    return [(question, bool((results[i][0][start:end] == results[i][2][start:end]).all())) for i, start, end, question in spans]


def uses_only_words_of_the_world(body):
    return set(words(body)) <= vocabulary() and re.fullmatch(r"[A-Za-z '\",.!?;:\n-]+", body) is not None


def evaluate(folder=None, stories=2000):
    llama, tokenizer = load(folder)
    told = held_out(stories)
    loss, bound, tokens = loss_and_bound(llama, tokenizer, told)
    print(f"validation loss        {loss:.4f} nats per token ({tokens} tokens of {stories} held-out stories)")
    print(f"bound of the world     {bound:.4f} nats per token; the loss is {100 * (loss / bound - 1):.1f} % above it")
    right = [is_right for _, is_right in answered(llama, tokenizer, told)]
    print(f"questions answered     {100 * sum(right) / len(right):.1f} % of {len(right)} exactly")
    texts = [generate(llama, tokenizer, "", max_new_tokens=500, temperature=0.8, seed=seed) for seed in SAMPLES]
    bodies = [text.split("\nQuestion:")[0] for text in texts]
    print(f"words of the world     {100 * sum(map(uses_only_words_of_the_world, bodies)) / len(bodies):.1f} % of {len(bodies)} stories sampled at temperature 0.8")
    print(f"hero and object kept   {100 * sum(map(is_coherent, bodies)) / len(bodies):.1f} % of the same")


if __name__ == "__main__":
    evaluate(*sys.argv[1:])
