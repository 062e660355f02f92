"""Text to token ids and back, with SentencePiece.

Source: Kudo & Richardson 2018, arXiv:1808.06226. `▁` stands for a space; a character that no piece
covers falls back to its UTF-8 bytes, one token each.
"""

import codecs
from pathlib import Path


def piece_bytes(piece, is_byte, is_control):
    """The bytes that a piece stands for."""
    if is_byte:                                                                # '<0x0A>'
        return bytes([int(piece[3:-1], 16)])
    return b"" if is_control else piece.replace("▁", " ").encode("utf-8")


class SentencePieceTokenizer:
    """A tokenizer from a `tokenizer.model` file.

    vocab_size, bos_id, eos_id; `decode(encode(text)) == text` for every text without `▁` itself.
    """

    def __init__(self, path):
        from sentencepiece import SentencePieceProcessor

        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{path}: not there; a checkpoint needs its SentencePiece tokenizer")
        try:
            self.model = SentencePieceProcessor(model_file=str(path))
            self.vocab_size, self.bos_id, self.eos_id = self.model.vocab_size(), self.model.bos_id(), self.model.eos_id()
            ids = list(range(self.vocab_size))                                 # all at once: one by one takes three times as long
            self.pieces = list(map(piece_bytes, self.model.id_to_piece(ids), self.model.is_byte(ids), self.model.is_control(ids)))
        except (RuntimeError, OSError, ValueError) as error:                   # ValueError: a piece that is no UTF-8
            raise ValueError(f"{path}: no SentencePiece model ({str(error)!r})") from None
        if self.bos_id < 0:
            raise ValueError(f"{path}: it has no begin-of-sequence token, with which a Llama's text begins")

    def encode(self, text, bos=True):
        """Text → list of ids, with the begin-of-sequence token in front unless told otherwise."""
        try:
            ids = self.model.encode(text.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise ValueError(f"the text is no valid Unicode: {error}") from None
        return [self.bos_id, *ids] if bos else ids

    def decode(self, ids):
        """Ids → text."""
        return "".join(self.stream(ids))

    def stream(self, ids):
        """Ids → pieces of text, one for each id, that joined give the whole text.

        Decoding ids one by one would lose the spaces between words and cut characters of several
        bytes; here a piece that ends inside a character waits for its end.
        """
        to_text = codecs.getincrementaldecoder("utf-8")("replace").decode
        text, started = "", False
        for id in ids:
            if not 0 <= id < self.vocab_size:
                raise ValueError(f"token id {id} is out of range; this tokenizer knows 0 to {self.vocab_size - 1}")
            text = to_text(self.pieces[id])
            if text and not started:                                           # encode put a space before the first word
                text, started = text.removeprefix(" "), True
            yield text
        yield to_text(b"", True)
