"""Thousands of damages to good folders: each ends in one clear error, or changes nothing that a loader could know about."""

import json
import random
import time
import tracemalloc

import numpy as np
import pytest
from tiny import tiny_llama, tokenizer

import minillama as ml
from minillama.checkpoint import hugging_face_name

assert tokenizer                                       # a fixture

LEGAL = {"max_seq_len", "norm_eps", "theta_base", "bos_id", "eos_id"}          # fields that weights cannot contradict
DEEP = {f"@deep{n}": "[" * n + "]" * n for n in (300, 980, 1000, 20_000, 100_000)}        # too deep for json.dumps
NASTY = [0, 1, 3, 7, -1, 2**31, 2**63, 10**18, -10**30, 10**400, 0.5, 20.0, 1e308, -1e308, 5e-324, 1e-31, 1e31, float("nan"), float("inf"), "",
         "x", "20", "F32", "\ud800", "line\nline", "a" * 5000, None, True, False, [], [[]], [1, 2, 3], ["F32"], [0, 80], {}, {"a": {"b": []}}, *DEEP]


def to_json(value):
    text = json.dumps(value)
    for mark, deep in DEEP.items():
        text = text.replace(f'"{mark}"', deep)
    return text.encode()


class Folder:
    """A good folder, what it holds, and the verdict on it after a damage."""

    def __init__(self, path):
        self.path = path
        self.files = {file.name: file.read_bytes() for file in path.iterdir()}
        self.size = sum(map(len, self.files.values()))
        self.llama, self.tokenizer = ml.load(path)

    def header(self, file):
        length = int.from_bytes(self.files[file][:8], "little")
        return json.loads(self.files[file][8:8 + length]), 8 + length

    def weights_in(self, file, content):
        """What the numbers of a file of the right length are, whatever its header says."""
        header, start = self.header(file)
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                x = np.frombuffer(content[start + begin:start + end], {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[entry["dtype"]])
                yield name, (x.astype(np.uint32) << 16).view(np.float32) if entry["dtype"] == "BF16" else x.astype(np.float32)

    def load(self, file, content, what, times=8):
        """(Llama, tokenizer) with other content in a file's place, or None after a clear error.

        what: was done to the folder, told if a promise is broken. times: the folder's size, to be allocated at most; 0: not watched.
        """
        (self.path / file).write_bytes(content)
        if times:
            tracemalloc.start()                        # makes everything four times as slow
        started = time.process_time()
        try:
            result = ml.load(self.path)
        except Exception as error:
            message = str(error)
            assert type(error) in (ValueError, FileNotFoundError), f"{what}: {error!r}"
            assert str(self.path) in message, f"{what}: the message names no file: {message}"
            assert message.isprintable() and len(message) < 20_000, f"{what}: {message!r}"
            result = None
        finally:
            seconds, (_, allocated) = time.process_time() - started, tracemalloc.get_traced_memory()
            tracemalloc.stop()
            (self.path / file).write_bytes(self.files[file])
        assert seconds < 1, what
        deep = 1000 * content.count(b"[" * 1000)       # Python 3.14 reads 20 000 lists in each other, at 92 bytes each; others refuse
        assert allocated <= times * (self.size + len(content)) + 100 * deep, f"{what}: {allocated} bytes allocated"
        return result

    def damage(self, file, content, what, fields=LEGAL, numbers_are_whole=False, times=8):
        """Put content in a file's place, load, hold the outcome against the promise; returns 1 for a load, 0 for an error.

        A config may differ in `fields` alone; weights must be what the bytes in their places say.
        """
        result = self.load(file, content, what, times)
        if result is None:
            return 0
        llama, its_tokenizer = result
        differing = {field for field in vars(llama.config) if getattr(llama.config, field) != getattr(self.llama.config, field)}
        assert differing <= (fields if file == "config.json" else set()), f"{what}: {differing}"
        expected = {hugging_face_name(name): weight.reshape(-1) for name, weight in self.llama.weights.items()}
        if file.endswith(".safetensors") and not numbers_are_whole:
            assert len(content) == len(self.files[file]), f"{what}: loaded at another length"
            expected |= dict(self.weights_in(file, content))
        for name, weight in llama.weights.items():
            numbers, right = weight.reshape(-1), expected[hugging_face_name(name)]
            assert weight.dtype == np.float32 and (numbers.view(np.uint32) == right.view(np.uint32)).all(), f"{what}: {name} is another"
        c = llama.config
        for id in (c.bos_id, *(c.eos_id if isinstance(c.eos_id, (list, tuple)) else [c.eos_id])):
            assert id is None or type(id) is int and 0 <= id < c.vocab_size, f"{what}: {id!r}"
        try:
            with np.errstate(all="ignore" if file.endswith(".safetensors") else "warn"):
                logits = llama([1, 2])
        except ValueError:                             # such as a context that was damaged to hold one token
            assert c.max_seq_len < 2, what
        else:
            assert logits.shape == (2, c.vocab_size) and logits.dtype == np.float32, what
            assert np.isfinite(logits).all() or file.endswith(".safetensors") and not numbers_are_whole, what
        if file != "tokenizer.model":
            assert its_tokenizer.pieces == self.tokenizer.pieces, what
        return 1


@pytest.fixture(scope="module")
def single(tmp_path_factory, tokenizer):
    """One file in F32, as `save` writes it: an untied head, a head_dim of its own."""
    path = tmp_path_factory.mktemp("single") / "model"
    ml.save(tiny_llama(), tokenizer, path)
    return Folder(path)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory, tokenizer):
    """Three files with an index, tied, half of the weights in BF16, and a config as transformers writes it, without head_dim."""
    path = tmp_path_factory.mktemp("sharded") / "model"
    llama = tiny_llama(seed=1, tied=True, dim=24)
    ml.save(llama, tokenizer, path)
    (path / "model.safetensors").unlink()
    weight_map = {}
    for i in range(3):
        part = {hugging_face_name(name): weight.astype(np.float16) if i == 1 else ml.checkpoint.to_bfloat16(weight)
                for name, weight in list(llama.weights.items())[i::3]}
        ml.checkpoint.write_safetensors(path / f"model-{i + 1:05d}-of-00003.safetensors", part, {"format": "pt"})
        weight_map |= dict.fromkeys(part, f"model-{i + 1:05d}-of-00003.safetensors")
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}), encoding="utf-8")
    settings = json.loads((path / "config.json").read_text(encoding="utf-8"))
    del settings["head_dim"], settings["rope_theta"]
    settings |= {"attention_dropout": 0.0, "dtype": "bfloat16", "initializer_range": 0.02, "pad_token_id": None, "pretraining_tp": 1,
                 "rope_scaling": None, "transformers_version": "5.0.0", "use_cache": True}
    (path / "config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return Folder(path)


def damaged(choose, content, end=None):
    """Content with one or two random damages that begin in its first `end` bytes, and what was done."""
    done = []
    for _ in range(choose.choice((1, 1, 1, 2))):
        content = bytearray(content)
        end = max(1, min(end or len(content), len(content)))
        i = choose.randrange(end)
        j = min(len(content), i + choose.choice((1, 1, 2, 3, 8, 64, 1000)))
        kind = choose.choice(("flip", "flip", "cut", "insert", "delete", "zero", "overwrite", "repeat", "swap"))
        if kind == "flip" and content:
            content[i] ^= 1 << choose.randrange(8)
        elif kind == "cut":
            del content[i:]
        elif kind == "insert":
            content[i:i] = choose.randbytes(j - i)
        elif kind == "delete":
            del content[i:j]
        elif kind == "zero":
            content[i:j] = bytes(j - i)
        elif kind == "overwrite":
            content[i:j] = choose.choice((choose.randbytes(j - i), b"9" * (j - i), b"\xff" * (j - i), b'"' * (j - i)))
        elif kind == "repeat":
            content[j:j] = content[i:j]
        elif kind == "swap":
            k = min(len(content), choose.randrange(j, j + end))
            piece = content[k:k + j - i]
            content[k:k + j - i], content[i:j] = content[i:j], piece
        done.append(f"{kind} {i}:{j}")
    return bytes(content), done


def damage_many(folder, file, n, end=None):
    """Damage a file n times; returns how many damages were harmless."""
    harmless = 0
    for seed in range(n):
        content, done = damaged(random.Random(seed), folder.files[file], end)
        harmless += folder.damage(file, content, f"{file}, seed {seed}, {done}", times=0 if seed % 4 else 8)
    return harmless


# ------------------------------------------------------------------ damaged bytes

def test_damaged_bytes_of_a_config(single, sharded):
    for folder in (single, sharded):
        assert 0 < damage_many(folder, "config.json", 400) < 200               # harmless: in white space, in keys that nobody reads


def test_damaged_bytes_of_an_index(sharded):
    assert damage_many(sharded, "model.safetensors.index.json", 400) < 80


def test_damaged_headers_of_weights(single, sharded):
    """Eight bytes of length and the header itself: hardly any damage there can be harmless."""
    for folder, file in ((single, "model.safetensors"), (sharded, "model-00001-of-00003.safetensors"), (sharded, "model-00002-of-00003.safetensors")):
        _, end = folder.header(file)
        assert damage_many(folder, file, 400, end) < 40


def test_damaged_bytes_anywhere_in_the_weights(single, sharded):
    """A number that became another number is a model as good as any: here a loader can only take what the bytes say."""
    for folder, file in ((single, "model.safetensors"), (sharded, "model-00003-of-00003.safetensors")):
        assert 0 < damage_many(folder, file, 250) < 200


@pytest.mark.parametrize("byte", range(8))
def test_every_bit_of_the_header_length_matters(single, byte):
    content = bytearray(single.files["model.safetensors"])
    for bit in range(8):
        content[byte] ^= 1 << bit
        assert not single.damage("model.safetensors", bytes(content), f"bit {bit} of byte {byte}")
        content[byte] ^= 1 << bit


def test_a_damaged_tokenizer(single):
    """Refused, or a tokenizer with other pieces, scores or notes about its making: as with the weights, nobody can know.

    SentencePiece's file has no sum to check and no second place where a piece is written down.
    """
    try:
        import resource
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    except ImportError:                                # Windows
        resource = None
    loaded = 0
    for seed in range(600):
        content, done = damaged(random.Random(seed), single.files["tokenizer.model"])
        what = f"tokenizer.model, seed {seed}, {done}"
        result = single.load("tokenizer.model", content, what, times=0 if seed % 4 else 8)
        if result is None:
            continue
        loaded += 1
        llama, its_tokenizer = result
        assert its_tokenizer.vocab_size == len(its_tokenizer.pieces) == llama.config.vocab_size, what
        assert all(type(piece) is bytes for piece in its_tokenizer.pieces), what
        ids = its_tokenizer.encode("his stories, a  🦙")
        assert all(0 <= id < llama.config.vocab_size for id in ids), what
        assert isinstance(its_tokenizer.decode(ids), str), what
    assert 0 < loaded < 200
    if resource:
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before    # kilobytes on Linux, bytes on macOS
        assert grown < 100_000 or grown < 100_000_000 and before > 50_000_000


# ------------------------------------------------------------------ JSON that is well formed and wrong

def paths(value, at=()):
    """The way to every value inside a JSON value, containers included."""
    yield at
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(inner, (*at, key))


def replaced(value, at, new):
    """A copy of a JSON value with another value in one place; without the key there if new is `...`."""
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(at) == 1 and new is ...:
        del copy[at[0]]
    else:
        copy[at[0]] = replaced(copy[at[0]], at[1:], new)
    return copy


FIELDS = {"max_position_embeddings": {"max_seq_len"}, "rms_norm_eps": {"norm_eps"}, "rope_theta": {"theta_base"}, "rope_parameters": {"theta_base"},
          "bos_token_id": {"bos_id"}, "eos_token_id": {"eos_id"}}


def test_every_value_of_a_config_replaced_by_every_nasty_one(single, sharded):
    for folder, some in ((single, NASTY), (sharded, NASTY[::6])):
        settings = json.loads(folder.files["config.json"])
        for at in paths(settings):
            for new in some + [...] * bool(at):
                folder.damage("config.json", to_json(replaced(settings, at, new)), f"config.json, {at} is {str(new)[:50]}", FIELDS.get((*at, "")[0], set()))


@pytest.mark.parametrize("key", ["model_type", "hidden_act", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                                 "intermediate_size", "vocab_size", "max_position_embeddings", "rms_norm_eps"])
def test_a_config_without_a_key_it_needs_is_refused(single, sharded, key):
    for folder in (single, sharded):
        settings = json.loads(folder.files["config.json"])
        del settings[key]
        assert not folder.damage("config.json", to_json(settings), f"without {key}")


def test_keys_that_nobody_reads_are_harmless(single):
    settings = json.loads(single.files["config.json"])
    for i, new in enumerate(NASTY):
        if new not in list(DEEP)[1:]:                  # the JSON reader of some Pythons does not go so deep
            assert single.damage("config.json", to_json(settings | {f"unused {i}": new}), f"an unused key is {str(new)[:50]}", set())


def test_every_value_of_a_header_replaced_by_every_nasty_one(single, sharded):
    for folder, file in ((single, "model.safetensors"), (sharded, "model-00002-of-00003.safetensors")):
        header, start = folder.header(file)
        some = ["__metadata__", *list(header)[1::9]]
        for at in paths(header):
            if at and at[0] not in some:
                continue
            for new in NASTY + [...] * bool(at):
                changed = replaced(header, at, new)
                text = to_json(changed)
                loaded = folder.damage(file, len(text).to_bytes(8, "little") + text + folder.files[file][start:],
                                       f"{file}, {at} is {str(new)[:50]}", numbers_are_whole=True)
                assert not loaded or at[0] == "__metadata__" or changed == header


def test_every_value_of_an_index_replaced_by_every_nasty_one(sharded):
    index = json.loads(sharded.files["model.safetensors.index.json"])
    some = list(index["weight_map"])[::6]
    for at in paths(index):
        if len(at) < 2 or at[0] == "metadata" or at[1] in some:
            for new in NASTY + [...] * bool(at):
                loaded = sharded.damage("model.safetensors.index.json", to_json(replaced(index, at, new)), f"index, {at} is {str(new)[:50]}")
                assert not loaded or at[0] == "metadata"


# ------------------------------------------------------------------ much of something

def test_one_name_twice_among_very_many_is_found_at_once(single):
    header, start = single.header("model.safetensors")
    text = json.dumps(header)[:-1] + "".join(f', "{i}": 0' for i in range(30_000)) + ', "7": 0}'
    content = len(text).to_bytes(8, "little") + text.encode() + single.files["model.safetensors"][start:]
    assert not single.damage("model.safetensors", content, "30 000 names", times=20)          # so much larger than JSON are objects


def test_a_config_that_claims_a_giant_allocates_nothing(single):
    for key in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "num_attention_heads", "head_dim"):
        settings = json.loads(single.files["config.json"]) | {key: 6 * 10**9}
        assert not single.damage("config.json", to_json(settings), key)


def test_weights_that_claim_a_giant_allocate_nothing(single):
    header, start = single.header("model.safetensors")
    giant = {"model.norm.weight": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    for text in (json.dumps(header | giant), json.dumps(giant)):
        content = len(text).to_bytes(8, "little") + text.encode() + single.files["model.safetensors"][start:]
        assert not single.damage("model.safetensors", content, "a giant", numbers_are_whole=True)
