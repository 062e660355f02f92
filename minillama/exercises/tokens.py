"""01, tokens and embeddings."""

import codecs

import numpy as np

from . import exercise, expect


def merged(symbols, pair, inside=False, from_the_right=False):
    if inside:                                         # the mistake of text replacement: 'e n' is found in 'the n'
        return " ".join(symbols).replace(" ".join(pair), "".join(pair)).split(" ")
    out, (a, b) = [], pair[::-1] if from_the_right else pair
    for symbol in symbols[::-1] if from_the_right else symbols:
        if out and (out[-1], symbol) == (a, b):
            out[-1] = "".join(pair)
        else:
            out.append(symbol)
    return out[::-1] if from_the_right else out


def merges(words, n, weighted=True, anew=True, tie=lambda text: (len(text), text), **how):
    """The first n merges of byte pair encoding, or what a mistake makes of them."""
    split, counts, learned = {word: list(word) for word in words}, {}, []
    for _ in range(n):
        if anew or not learned:
            found = [(pair, word) for word, symbols in split.items() for pair in zip(symbols, symbols[1:])]
            counts = {pair: sum(words[word] if weighted else 1 for other, word in found if other == pair) for pair, _ in found}
        learned.append(min(counts, key=lambda pair: (-counts[pair], tie("".join(pair)))))
        del counts[learned[-1]]
        split = {word: merged(symbols, learned[-1], **how) for word, symbols in split.items()}
    return learned


@exercise
def learn_merges(fn):
    words = {"▁then": 4, "▁hen": 2, "▁he": 12, "▁ten": 8, "▁tenth": 1, "▁oooh": 3, "▁a": 9, "▁ah": 1, "▁my": 7}
    for n in (13, 3):
        got, right = fn(dict(words), n), merges(words, n)
        expect(got, right, {
            "A word that stands in the text five times counts five times.": merges(words, n, weighted=False),
            "Count anew after every merge: the pairs have changed.": merges(words, n, anew=False),
            "Of pairs that tie, the shorter comes first, and only then the alphabet.": merges(words, n, tie=lambda text: text),
            "Of pairs that tie, the one seen first was taken; the shorter wins, then the alphabet.": merges(words, n, tie=lambda text: 0),
            "Of pairs that tie, the shorter one wins.": merges(words, n, tie=lambda text: (-len(text), text)),
            "Of pairs that tie and are of one length, the first in the alphabet wins.":
                merges(words, n, tie=lambda text: (len(text), [-ord(letter) for letter in text])),
            "A pair was found inside longer symbols, as 'e n' in 'the n'; compare whole symbols.": merges(words, n, inside=True),
            "Merge from the left: of o o o, the first two become one.": merges(words, n, from_the_right=True),
            "Give pairs, such as ('t', 'he'), not the joined texts.": ["".join(pair) for pair in right],
        })


@exercise
def decode_stream(fn):
    for pieces in ([b"", b" His", b" sto", b"ries", b" ", b"\xf0", b"\x9f", b"\xa6", b"\x99", b" caf\xc3", b"\xa9s", b" \xe6\x97", b"\xa5."],
                   [b"\xc3", b"\xa9", b" a"]):
        def texts(to_text, drop=lambda i, texts: not any(texts[:i]), pieces=pieces):
            out = [to_text(piece) for piece in pieces]
            return [text.removeprefix(" ") if drop(i, out) else text for i, text in enumerate(out)]

        whole, waiting = codecs.getincrementaldecoder("utf-8"), bytearray()

        def all_or_nothing(piece):                     # the mistake of holding back whole characters with an unfinished one
            waiting.extend(piece)
            try:
                text = waiting.decode()
                waiting.clear()
                return text
            except UnicodeDecodeError:
                return ""

        right = texts(whole().decode)
        faults = {
            "A character was cut: bytes of an unfinished one must wait for the next piece.": lambda piece: piece.decode("utf-8", "replace"),
            "Bytes of an unfinished character were thrown away; they must wait for the next piece.": lambda piece: piece.decode("utf-8", "ignore"),
            "Only the bytes of the unfinished character wait; the characters before them are shown at once.": all_or_nothing,
        }
        expect(fn(list(pieces)), right, {
            "The space before the first word has to go, also if a piece without text, such as <s>, stands before it.":
                texts(whole().decode, lambda i, texts: False),
            "Only the first text loses its space; the others need theirs.": texts(whole().decode, lambda i, texts: True),
            **{hint: texts(fault) for hint, fault in faults.items()},
            **{f"{hint} (Then the space at the start.)": texts(fault, lambda i, texts: False) for hint, fault in faults.items()},
            "Give one text for each piece, not the whole text.": ["".join(right)],
            "Give a list with one text for each piece, not the whole text.": "".join(right),
        })


@exercise
def tied_gradient(fn):
    rng = np.random.default_rng(0)
    ids, (dx, h), dlogits = np.array([4, 1, 4, 6, 4, 1, 9]), rng.standard_normal((2, 7, 5)), rng.standard_normal((7, 11))
    read, last, head = np.zeros((11, 5)), np.zeros((11, 5)), dlogits.T @ h
    np.add.at(read, ids, dx)
    last[ids] = dx
    expect(fn(ids.copy(), dx.copy(), h.copy(), dlogits.copy()), read + head, {
        "The share of the logits is missing: the table is read there, too.": read,
        "The share of the look-up is missing: a row collects dx from all places where its id stands.": head,
        "Of an id that stands several times, one dx alone was taken; `np.add.at` takes all.": last + head,
        "The dx were written over the share of the logits; they are added to it.": np.where(np.isin(np.arange(11), ids)[:, None], last, head),
        "Shares add up; do not take their mean.": (read + head) / 2,
        "Do not divide by the number of tokens: they add up.": (read + head) / 7,
    })
