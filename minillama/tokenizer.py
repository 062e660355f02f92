"""Text to token ids and back, with SentencePiece.

Source: Kudo & Richardson 2018, arXiv:1808.06226. `▁` stands for a space; a character that no piece
covers falls back to its UTF-8 bytes, one token each.
"""

import codecs
from pathlib import Path


class SentencePieceTokenizer:
    """A tokenizer from a `tokenizer.model` file.

    vocab_size, bos_id, eos_id; `decode(encode(text)) == text` for every text.
    """

    def __init__(self, path):
        from sentencepiece import SentencePieceProcessor

        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{path}: not there; a checkpoint needs its SentencePiece tokenizer")
        try:
            self.model = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{path}: no SentencePiece model ({error})") from None
        self.vocab_size, self.bos_id, self.eos_id = self.model.vocab_size(), self.model.bos_id(), self.model.eos_id()
        self.pieces = [self.piece_bytes(id) for id in range(self.vocab_size)]

    def piece_bytes(self, id):
        if self.model.is_byte(id):                                             # '<0x0A>'
            return bytes([int(self.model.id_to_piece(id)[3:-1], 16)])
        if self.model.is_control(id):
            return b""
        return self.model.id_to_piece(id).replace("▁", " ").encode("utf-8")

    def encode(self, text, bos=True):
        """Text → list of ids, with the begin-of-sequence token in front unless told otherwise."""
        ids = self.model.encode(text)
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
