"""01, tokens and embeddings: exercise, wrong answer, part of the hint that it gets."""

import numpy as np


def merge(symbols, pair):
    out, i = [], 0
    while i < len(symbols):
        width = 2 if tuple(symbols[i:i + 2]) == pair else 1
        out.append("".join(symbols[i:i + width]))
        i += width
    return out


def merge_from_the_right(symbols, pair):
    turned = [symbol[::-1] for symbol in symbols[::-1]]
    return [symbol[::-1] for symbol in merge(turned, (pair[1][::-1], pair[0][::-1]))[::-1]]


def merge_by_replacing(symbols, pair):
    return " ".join(symbols).replace(" ".join(pair), "".join(pair)).split()


def learn(words, n, weigh=lambda times: times, tie=lambda text: (len(text), text), merge=merge, anew=True):
    split, learned = {word: list(word) for word in words}, []
    for step in range(n):
        if anew or step == 0:
            counts = {}
            for word, symbols in split.items():
                for pair in zip(symbols, symbols[1:]):
                    counts[pair] = counts.get(pair, 0) + weigh(words[word])
        rest = [pair for pair in counts if pair not in learned]
        learned.append(min(rest, key=lambda pair: (-counts[pair], tie("".join(pair)))))
        split = {word: merge(symbols, learned[-1]) for word, symbols in split.items()}
    return learned


def decode(pieces, errors="replace"):
    texts = [piece.decode("utf-8", errors) for piece in pieces]
    first = next(i for i, text in enumerate(texts) if text)
    return [text.removeprefix(" ") if i == first else text for i, text in enumerate(texts)]


def stream(pieces, drop):
    texts, waiting = [], b""
    for piece in pieces:
        waiting += piece
        text = waiting.decode("utf-8", "ignore")
        waiting = waiting[len(text.encode("utf-8")):]
        texts.append(text.removeprefix(" ") if drop(texts) else text)
    return texts


def held_back(pieces):
    texts, waiting = [], b""
    for piece in pieces:
        waiting += piece
        try:
            texts.append(waiting.decode())
            waiting = b""
        except UnicodeDecodeError:
            texts.append("")
    return texts


def gradient(ids, dx, h, dlogits, head=1.0, scale=1.0):
    dE = head * dlogits.T @ h
    np.add.at(dE, ids, dx)
    return scale * dE


def buffered(ids, dx, h, dlogits):
    dE = dlogits.T @ h
    dE[ids] += dx
    return dE


def overwritten(ids, dx, h, dlogits):
    dE = dlogits.T @ h
    dE[ids] = dx
    return dE


WRONG = [
    ("learn_merges", lambda words, n: learn(words, n, weigh=lambda times: 1), "counts five times"),
    ("learn_merges", lambda words, n: learn(words, n, anew=False), "Count anew"),
    ("learn_merges", lambda words, n: learn(words, n, tie=lambda text: text), "only then the alphabet"),
    ("learn_merges", lambda words, n: learn(words, n, tie=lambda text: 0), "seen first"),
    ("learn_merges", lambda words, n: learn(words, n, tie=lambda text: (-len(text), text)), "the shorter one wins"),
    ("learn_merges", lambda words, n: learn(words, n, tie=lambda text: (len(text), [-ord(letter) for letter in text])), "first in the alphabet"),
    ("learn_merges", lambda words, n: learn(words, n, merge=merge_by_replacing), "inside longer symbols"),
    ("learn_merges", lambda words, n: learn(words, n, merge=merge_from_the_right), "from the left"),
    ("learn_merges", lambda words, n: ["".join(pair) for pair in learn(words, n)], "not the joined texts"),
    ("learn_merges", lambda words, n: learn(words, n + 1), "Not right yet"),
    ("learn_merges", lambda words, n: None, "return"),
    ("decode_stream", lambda pieces: stream(pieces, lambda before: False), "has to go"),
    ("decode_stream", lambda pieces: stream(pieces, lambda before: True), "the others need theirs"),
    ("decode_stream", lambda pieces: stream(pieces, lambda before: not before), "stands before it"),
    ("decode_stream", lambda pieces: decode(pieces), "A character was cut"),
    ("decode_stream", lambda pieces: decode(pieces, "ignore"), "thrown away"),
    ("decode_stream", lambda pieces: [piece.decode("utf-8", "replace") for piece in pieces], "Then the space"),
    ("decode_stream", lambda pieces: [piece.decode("utf-8", "ignore") for piece in pieces], "Then the space"),
    ("decode_stream", lambda pieces: held_back(pieces), "shown at once"),
    ("decode_stream", lambda pieces: b"".join(pieces).decode().removeprefix(" "), "Give a list"),
    ("decode_stream", lambda pieces: [b"".join(pieces).decode().removeprefix(" ")], "one text for each piece"),
    ("decode_stream", lambda pieces: list(pieces), "Not right yet"),
    ("tied_gradient", lambda *given: gradient(*given, head=0.0), "share of the logits is missing"),
    ("tied_gradient", lambda ids, dx, h, dlogits: dlogits.T @ h, "share of the look-up is missing"),
    ("tied_gradient", buffered, "`np.add.at` takes all"),
    ("tied_gradient", overwritten, "written over"),
    ("tied_gradient", lambda *given: gradient(*given, scale=1 / 2), "their mean"),
    ("tied_gradient", lambda *given: gradient(*given, scale=1 / 7), "number of tokens"),
    ("tied_gradient", lambda ids, dx, h, dlogits: dlogits.T @ dx, "Not right yet"),
]
