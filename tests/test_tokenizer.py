"""Text survives the way to ids and back, in one go and token by token."""

import random

import numpy as np
import pytest
from tiny import VOCAB_SIZE, tokenizer

from minillama.checkpoint import SHIPPED
from minillama.tokenizer import SentencePieceTokenizer

assert tokenizer                                       # a fixture

TEXTS = ["his stories", "a  b", "", " ", "  ", " leading", "   leading three", "trailing ", "trailing two  ", "\n", "\n\nline\nline\n", "tab\there",
         "naïve café", "e\u0301 is not é", "日本語", "Привет", "👩‍🚀 rides a 🚲", "🦙", "no\u00a0break", "\u2028", "\u3000", "\r\n",
         "\0", "a\0b", "\ufeffx", "\ufffd", "<s>", "</s>", "<unk>", "<0x0A>", "'quoted' \"said\" — (so)…", "1234567890", "x" * 3000,
         "Once upon a time, there was a fox.\nQuestion: Who? Answer: Pip."]


def byte_id(tokenizer, byte):
    return tokenizer.model.piece_to_id(f"<0x{byte:02X}>")


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_a_text_survives_the_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text, bos=False)) == text


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_token_by_token_it_is_the_same_text(tokenizer, text):
    ids = tokenizer.encode(text)
    pieces = list(tokenizer.stream(ids))
    assert len(pieces) == len(ids) + 1                 # one for each id, and the end
    assert "".join(pieces) == text
    assert text.count("\ufffd") == sum(piece.count("\ufffd") for piece in pieces)


def test_random_texts_survive_the_round_trip(tokenizer):
    choose = random.Random(4)
    alphabets = ["ab c ", " \n\t", "éßЖ中🦙\U0010ffff\ud7ff\ue000", "".join(map(chr, range(128)))]
    for _ in range(400):
        text = "".join(choose.choices(choose.choice(alphabets), k=choose.randrange(30)))
        assert tokenizer.decode(tokenizer.encode(text)) == text, ascii(text)


def test_the_sign_for_a_space_is_the_one_character_that_cannot_survive(tokenizer):
    """SentencePiece writes a space as U+2581; a text that holds the sign itself comes back with a space."""
    assert tokenizer.decode(tokenizer.encode("a▁b")) == "a b"


def test_decoding_ids_one_by_one_would_lose_what_streaming_keeps(tokenizer):
    """The error that streaming avoids: without it, spaces between words and characters of several bytes are gone."""
    ids = tokenizer.encode("his stories, a  🦙")
    naive = "".join(tokenizer.model.decode([id]) for id in ids)
    assert naive != "his stories, a  🦙" and "\ufffd" in naive
    assert "".join(tokenizer.stream(ids)) == "his stories, a  🦙"


def test_ids_and_text_agree_with_sentencepiece_itself(tokenizer):
    for text in TEXTS:
        ids = tokenizer.model.encode(text)
        assert tokenizer.encode(text) == [tokenizer.bos_id, *ids]
        assert tokenizer.encode(text, bos=False) == ids
        if "\0" not in text:
            assert tokenizer.decode(ids) == tokenizer.model.decode(ids)


def test_the_sizes_and_special_ids_are_those_of_the_file(tokenizer):
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (VOCAB_SIZE, 1, 2)
    assert len(tokenizer.pieces) == VOCAB_SIZE
    assert [byte_id(tokenizer, byte) for byte in range(256)] == list(range(3, 259))
    assert tokenizer.pieces[3:259] == [bytes([byte]) for byte in range(256)]


def test_words_of_stories_take_fewer_tokens_than_letters(tokenizer):
    assert len(tokenizer.encode("there was a", bos=False)) < len("there was a") / 2


def test_begin_and_end_of_sequence_have_no_text(tokenizer):
    ids = tokenizer.encode("a b", bos=False)
    assert tokenizer.decode([1, *ids, 2]) == "a b"
    assert tokenizer.decode([1]) == tokenizer.decode([2, 1, 2]) == tokenizer.decode([]) == ""


def test_the_space_in_front_of_the_first_word_alone_is_taken_away(tokenizer):
    word = tokenizer.encode("fox", bos=False)
    assert tokenizer.decode([1, *word]) == "fox"
    assert tokenizer.decode([1, *word, 2, 1, *word]) == "fox fox"
    letter = tokenizer.model.piece_to_id("a")
    assert tokenizer.decode([letter, *word]) == "a fox"


@pytest.mark.parametrize("content", [b"\xc3a", b"a\xc3", b"\xe2\x82", b"\xe2\x82a\xac", b"\x80\x80", b"\xff\xfe", b"\xf0\x9f\xa6", b"\xc0\xaf",
                                     b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3\xa9\xc3", b"\xe6\x97\xa5"])
def test_broken_byte_sequences_become_replacement_characters(tokenizer, content):
    ids = [byte_id(tokenizer, byte) for byte in content]
    expected = content.decode("utf-8", "replace")
    assert tokenizer.decode(ids) == expected
    assert "".join(tokenizer.stream([1, *ids])) == expected
    assert tokenizer.decode([*ids, tokenizer.model.piece_to_id("▁the")]) == expected + " the"


def test_a_character_of_several_bytes_appears_with_its_last_byte(tokenizer):
    ids = [byte_id(tokenizer, byte) for byte in "a🦙b".encode()]
    assert list(tokenizer.stream(ids)) == ["a", "", "", "", "🦙", "b", ""]


def test_a_character_that_never_ends_appears_at_the_end(tokenizer):
    ids = [byte_id(tokenizer, byte) for byte in b"a\xf0\x9f"]
    assert list(tokenizer.stream(ids)) == ["a", "", "", "\ufffd"]


def test_streaming_gives_a_piece_before_it_asks_for_the_next_id(tokenizer):
    asked = []

    def ids():
        for id in tokenizer.encode("a story", bos=False):
            asked.append(id)
            yield id

    stream = tokenizer.stream(ids())
    assert asked == []
    for n in range(1, len(tokenizer.encode("a story", bos=False)) + 1):
        next(stream)
        assert len(asked) == n


@pytest.mark.parametrize("id", [-1, VOCAB_SIZE, VOCAB_SIZE + 5, 2**70, -2**70])
def test_an_id_out_of_range_is_refused(tokenizer, id):
    message = f"token id {id} is out of range; this tokenizer knows 0 to 352"
    with pytest.raises(ValueError, match=f"^{message}$"):
        tokenizer.decode([1, id])
    stream = tokenizer.stream([5, id])
    next(stream)
    with pytest.raises(ValueError, match=f"^{message}$"):
        next(stream)


def test_arrays_of_ids_are_decoded_too(tokenizer):
    ids = tokenizer.encode("his stories")
    for dtype in (np.uint16, np.int32, np.int64):
        assert tokenizer.decode(np.array(ids, dtype)) == "his stories"


def test_a_text_that_is_no_unicode_is_a_value_error(tokenizer):
    with pytest.raises(ValueError, match="position 16"):
        tokenizer.encode("half of a pair: \ud83e")


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path / "none.model", tmp_path):
        with pytest.raises(FileNotFoundError) as error:
            SentencePieceTokenizer(path)
        assert str(error.value) == f"{path}: not there; a checkpoint needs its SentencePiece tokenizer"


@pytest.mark.parametrize("content", [b"", b"\0", b"some text", b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02" * 40])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        SentencePieceTokenizer(path)
    assert str(error.value).startswith(f"{path}: no SentencePiece model (")


def test_a_piece_that_is_no_unicode_is_a_value_error_that_names_the_file(tmp_path, tokenizer):
    content = tokenizer.path.read_bytes()
    assert "▁the".encode() in content
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content.replace("▁the".encode(), b"\xe2\x96\xffthe", 1))
    with pytest.raises(ValueError) as error:
        SentencePieceTokenizer(path)
    assert str(error.value).startswith(f"{path}: ")


def test_a_tokenizer_without_a_begin_token_is_refused(tmp_path, tokenizer):
    """Without one, `encode` would put the id −1 in front."""
    import sentencepiece

    path = tmp_path / "tokenizer.model"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a story of a fox"] * 5), model_prefix=str(path.with_suffix("")), model_type="bpe", vocab_size=275,
        byte_fallback=True, bos_id=-1, num_threads=1, minloglevel=2)
    with pytest.raises(ValueError) as error:
        SentencePieceTokenizer(path)
    assert str(error.value).startswith(f"{path}: ") and "begin-of-sequence" in str(error.value)


def test_the_tokenizer_that_ships_does_not_say_where_it_was_made():
    assert b"tokenizer" not in (SHIPPED / "tokenizer.model").read_bytes()      # the end of the name that training was given
