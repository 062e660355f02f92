"""Folders are written and read without loss, and whatever is wrong with one is said in one clear message."""

import json
import math
import os
import sys

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from tiny import ROOT, VOCAB_SIZE, tiny_config, tiny_llama, tokenizer

import minillama as ml
from minillama.checkpoint import SHIPPED, hugging_face_name, read_header, read_tensor, replacing, to_bfloat16, write_safetensors
from minillama.tokenizer import SentencePieceTokenizer

assert tokenizer                                       # a fixture

ROUNDED = {                                            # what a weight becomes in a file of this dtype
    "F32": lambda x: x,
    "F16": lambda x: x.astype(np.float16).astype(np.float32),
    "BF16": lambda x: nearest_bfloat16(x),
}


def value(bits):
    """The number behind the 32 bits of a positive float32, as float64; infinity as 2^128, which it stands for in rounding."""
    with np.errstate(invalid="ignore"):                # some NaN complain
        x = bits.astype(np.uint32).view(np.float32).astype(np.float64)
    return np.where(np.isinf(x), 2.0**128, x)


def nearest_bfloat16(x):
    """By definition: the nearer one of both neighbors whose lower 16 bits are 0; of two equally near ones the even one."""
    bits = np.ascontiguousarray(x).view(np.uint32).astype(np.uint64)
    sign, size = bits & 0x80000000, bits & 0x7FFFFFFF
    below = size & 0x7FFF0000
    above = below + 0x10000
    to_below, to_above = value(size) - value(below), value(above) - value(size)
    below_is_even = (below >> 16) % 2 == 0
    chosen = np.where((to_below < to_above) | ((to_below == to_above) & below_is_even), below, above)
    chosen = np.where(size > 0x7F800000, 0x7FC00000, np.where(size == 0x7F800000, size, chosen))
    return (sign | chosen).astype(np.uint32).view(np.float32).reshape(np.shape(x))


def same_bits(a, b):
    return a.dtype == b.dtype == np.float32 and a.shape == b.shape and (np.ascontiguousarray(a).view(np.uint32)
                                                                        == np.ascontiguousarray(b).view(np.uint32)).all()


@pytest.fixture
def folder(tmp_path, tokenizer):
    """A good folder, to be spoiled."""
    ml.save(tiny_llama(), tokenizer, tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder, *deleted, **changes):
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | changes
    for key in deleted:
        del settings[key]
    path.write_text(json.dumps(settings), encoding="utf-8")


def header_and_data(path):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8:8 + length]), content[8 + length:]


def write_raw(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def split(folder, n_files=3):
    """Spread the weights over several files with an index, as transformers does for large models; returns the weight map."""
    header, data = header_and_data(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    header.pop("__metadata__")
    weight_map = {}
    for i in range(n_files):
        file = f"model-{i + 1:05d}-of-{n_files:05d}.safetensors"
        part, parts = {}, b""
        for name in list(header)[i::n_files]:
            begin, end = header[name]["data_offsets"]
            part[name] = header[name] | {"data_offsets": [len(parts), len(parts) + end - begin]}
            parts += data[begin:end]
            weight_map[name] = file
        write_raw(folder / file, part, parts)
    write_index(folder, weight_map)
    return weight_map


def write_index(folder, weight_map):
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def refusal(folder, error=ValueError):
    """The message with which a folder is refused, in one line."""
    with pytest.raises(error) as caught:
        ml.load(folder)
    assert type(caught.value) is error
    message = str(caught.value)
    assert "\n" not in message
    return message


# ------------------------------------------------------------------ what is saved is loaded again

@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_saved_model_is_loaded_with_every_weight_as_its_dtype_rounds_it(tmp_path, tokenizer, dtype, tied):
    llama = tiny_llama(seed=3, tied=tied, theta_base=50000.0, norm_eps=1e-6, bos_id=None)
    ml.save(llama, tokenizer, tmp_path / "a" / "b", dtype=dtype)
    loaded, its_tokenizer = ml.load(tmp_path / "a" / "b")
    assert loaded.config == llama.config
    assert loaded.weights.keys() == llama.weights.keys()
    assert ("lm_head" in loaded.weights) is not tied
    for name, weight in llama.weights.items():
        assert same_bits(loaded.weights[name], ROUNDED[dtype](weight)), name
        assert loaded.weights[name].flags.c_contiguous
    assert its_tokenizer.pieces == tokenizer.pieces
    assert sorted(os.listdir(tmp_path / "a" / "b")) == ["config.json", "model.safetensors", "tokenizer.model"]


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_saving_what_was_loaded_changes_no_byte(tmp_path, tokenizer, dtype):
    ml.save(tiny_llama(), tokenizer, tmp_path / "once", dtype=dtype)
    ml.save(*ml.load(tmp_path / "once"), tmp_path / "twice", dtype=dtype)
    for file in ("config.json", "model.safetensors", "tokenizer.model"):
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "twice" / file).read_bytes()


def test_a_model_can_be_saved_over_the_folder_it_came_from(folder):
    llama, its_tokenizer = ml.load(folder)
    llama.weights["final_norm"] += 1
    ml.save(llama, its_tokenizer, folder)
    again, _ = ml.load(folder)
    assert same_bits(again.weights["final_norm"], llama.weights["final_norm"])


def test_a_loaded_model_works_after_its_folder_is_gone(folder):
    llama, its_tokenizer = ml.load(folder)
    expected = llama([1, 5, 2])
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert same_bits(llama([1, 5, 2]), expected)
    assert its_tokenizer.decode(its_tokenizer.encode("his stories")) == "his stories"


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_nan_inf_and_the_sign_of_zero_survive(tmp_path, tokenizer, dtype):
    llama = tiny_llama()
    llama.weights["final_norm"][:6] = [np.nan, np.inf, -np.inf, -0.0, 0.0, -1.5]
    ml.save(llama, tokenizer, tmp_path, dtype=dtype)
    x = ml.load(tmp_path)[0].weights["final_norm"]
    assert np.isnan(x[0]) and (x[1:6] == [np.inf, -np.inf, 0, 0, -1.5]).all()
    assert np.signbit(x[[2, 3, 5]]).all() and not np.signbit(x[[1, 4]]).any()


def test_bfloat16_rounds_to_the_nearest_and_ties_to_even():
    step = 2.0**-7                                     # between neighbors from 1 to 2
    x = np.array([1, 1 + step / 2, 1 + 3 * step / 2, 1 + step / 2 + 2.0**-23, 1 + step / 2 - 2.0**-23, -1 - step / 2, -1 - 3 * step / 2,
                  1e-40, 3.3895314e38, 3.3961775e38, 3.4028235e38], np.float32)
    expected = [1, 1, 1 + 2 * step, 1 + step, 1, -1, -1 - 2 * step, 2.0**-133, 3.3895314e38, np.inf, np.inf]
    assert same_bits((to_bfloat16(x).astype(np.uint32) << 16).view(np.float32), np.array(expected, np.float32))


def test_bfloat16_agrees_with_its_definition_on_every_kind_of_bits():
    rng = np.random.default_rng(1)
    upper = np.repeat(np.arange(0, 2**16, 7, dtype=np.uint32), 4) << 16        # signs, exponents, subnormals, infinities, NaN
    lower = np.concatenate([rng.integers(0, 2**16, upper.size // 2), rng.choice([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], upper.size // 2)])
    x = (upper | lower.astype(np.uint32)).view(np.float32)
    rounded, expected = (to_bfloat16(x).astype(np.uint32) << 16).view(np.float32), nearest_bfloat16(x)
    assert to_bfloat16(x).dtype == np.uint16
    assert (np.isnan(rounded) == np.isnan(x)).all()
    assert same_bits(rounded[~np.isnan(x)], expected[~np.isnan(x)])


def test_a_nan_whose_payload_lies_in_the_lower_half_does_not_become_infinity():
    x = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan((to_bfloat16(x).astype(np.uint32) << 16).view(np.float32)).all()


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_arrays_that_are_not_contiguous_are_saved_as_they_read(tmp_path, tokenizer, dtype):
    """safetensors 0.8.0 writes the memory behind such an array instead."""
    llama, rng = tiny_llama(), np.random.default_rng(5)
    random = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    views = {
        "layers.0.wq": random(20, 24).T,
        "layers.0.wk": random(16, 20)[::2],
        "layers.0.wv": random(8, 20)[::-1],
        "layers.0.wo": np.asfortranarray(random(20, 24)),
        "layers.1.w_gate": random(28, 41)[:, 1::2],
        "layers.1.w_up": np.broadcast_to(random(20), (28, 20)),
        "layers.1.w_down": random(28, 20).astype(">f4").T,
        "final_norm": random(60)[::3],
    }
    llama.weights.update(views)
    ml.save(llama, tokenizer, tmp_path, dtype=dtype)
    loaded, _ = ml.load(tmp_path)
    for name, view in views.items():
        assert same_bits(loaded.weights[name], ROUNDED[dtype](np.array(view, np.float32, order="C"))), name


def test_write_safetensors_writes_views_as_they_read(tmp_path):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_safetensors(tmp_path / "x", {"t": x.T, "r": x[::-1, ::2], "h": x.astype(np.float16).T})
    back = safetensors.numpy.load_file(tmp_path / "x")
    assert (back["t"] == x.T).all() and (back["r"] == x[::-1, ::2]).all() and (back["h"] == x.T).all()
    assert back["h"].dtype == np.float16


# ------------------------------------------------------------------ the same file for others

@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_the_safetensors_library_reads_what_is_saved(tmp_path, tokenizer, dtype):
    llama = tiny_llama(seed=8)
    ml.save(llama, tokenizer, tmp_path, dtype=dtype)
    found = dict(safetensors.deserialize((tmp_path / "model.safetensors").read_bytes()))
    assert found.keys() == {hugging_face_name(name) for name in llama.weights}
    for name, weight in llama.weights.items():
        entry = found[hugging_face_name(name)]
        assert (entry["dtype"], tuple(entry["shape"])) == (dtype, weight.shape)
        numbers = np.frombuffer(bytes(entry["data"]), {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[dtype]).reshape(weight.shape)
        numbers = (numbers.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else numbers.astype(np.float32)
        assert same_bits(numbers, ROUNDED[dtype](weight)), name
    with safetensors.safe_open(tmp_path / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}     # transformers asks for it


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_what_the_safetensors_library_writes_is_read(folder, dtype):
    weights = {hugging_face_name(name): weight.astype(dtype) for name, weight in tiny_llama(seed=9).weights.items()}
    safetensors.numpy.save_file(weights, folder / "model.safetensors")
    loaded, _ = ml.load(folder)
    for name, weight in loaded.weights.items():
        assert same_bits(weight, weights[hugging_face_name(name)].astype(np.float32)), name


def test_the_names_are_those_of_hugging_face(folder):
    names = read_header(folder / "model.safetensors").keys()
    assert len(names) == 3 + 9 * 2
    assert {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "model.layers.1.self_attn.q_proj.weight",
            "model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight", "model.layers.1.self_attn.o_proj.weight",
            "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight",
            "model.layers.1.input_layernorm.weight", "model.layers.1.post_attention_layernorm.weight"} <= names


def test_the_saved_config_is_read_by_old_and_new_transformers(folder):
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert settings["rope_theta"] == settings["rope_parameters"]["rope_theta"] == 10000.0
    assert settings["architectures"] == ["LlamaForCausalLM"] and settings["model_type"] == "llama"
    assert settings["torch_dtype"] == "float32"


@pytest.mark.parametrize("n_files", [1, 2, 5])
def test_several_files_with_an_index_are_one_model(folder, n_files):
    expected = ml.load(folder)[0].weights
    split(folder, n_files)
    loaded = ml.load(folder)[0].weights
    assert all(same_bits(loaded[name], weight) for name, weight in expected.items())


def test_tensors_of_one_file_may_have_different_dtypes(folder):
    llama = tiny_llama()
    mixed = {hugging_face_name(name): weight if i % 3 == 0 else weight.astype(np.float16) if i % 3 == 1 else to_bfloat16(weight)
             for i, (name, weight) in enumerate(llama.weights.items())}
    write_safetensors(folder / "model.safetensors", mixed)
    loaded = ml.load(folder)[0].weights
    for i, (name, weight) in enumerate(llama.weights.items()):
        assert same_bits(loaded[name], ROUNDED[("F32", "F16", "BF16")[i % 3]](weight)), name


def test_head_dim_is_taken_from_the_config_or_derived(folder, tmp_path, tokenizer):
    assert ml.load(folder)[0].config.head_dim == 4     # 6 heads of 4 beside a dim of 20
    edit_config(folder, "head_dim")
    assert "20" in (message := refusal(folder)) and "6" in message and "head_dim" in message
    for head_dim in ("absent", None):
        ml.save(tiny_llama(dim=30, head_dim=5 + 1, n_heads=5, n_kv_heads=1), tokenizer, tmp_path / "derived")
        edit_config(tmp_path / "derived", *["head_dim"] * (head_dim == "absent"), **{} if head_dim == "absent" else {"head_dim": None})
        assert ml.load(tmp_path / "derived")[0].config.head_dim == 6


@pytest.mark.parametrize("changes", [{"rope_theta": 500000.0, "rope_parameters": None}, {"rope_theta": 500000},
                                     {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}])
def test_theta_base_is_read_from_the_top_level_or_from_rope_parameters(folder, changes):
    edit_config(folder, "rope_theta", "rope_parameters")
    edit_config(folder, **changes)
    assert ml.load(folder)[0].config.theta_base == 500000


# ------------------------------------------------------------------ writing is all or nothing

def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as temporary:
        with open(temporary, "w") as file:
            file.write("half of the ne")
        assert path.read_text() == "old"
        raise KeyError
    assert contents(tmp_path) == {"file": b"old"}
    with replacing(path) as temporary, open(temporary, "w") as file:
        file.write("new")
    assert contents(tmp_path) == {"file": b"new"}


def test_a_failed_move_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    def fail(*_):
        raise PermissionError("in use")

    path = tmp_path / "file"
    path.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(PermissionError), replacing(path) as temporary, open(temporary, "w") as file:
            file.write("new")
    assert contents(tmp_path) == {"file": b"old"}


def test_a_full_disk_leaves_the_old_weights_and_nothing_else(folder):
    resource = pytest.importorskip("resource")         # a limit on the size of files stands for a full disk
    before = contents(folder)
    llama, its_tokenizer = ml.load(folder)
    llama.weights["final_norm"] += 1
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["model.safetensors"]) // 2, hard))
        with pytest.raises(Exception, match="(?i)large|I/O|file"):
            ml.save(llama, its_tokenizer, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(folder) == before


def test_an_error_in_one_weight_leaves_the_old_folder_and_nothing_else(folder):
    class Broken(np.ndarray):
        def astype(self, *_, **__):
            raise MemoryError("no room for this one")

    before = contents(folder)
    llama, its_tokenizer = ml.load(folder)
    llama.weights["layers.0.wq"] += 1
    llama.weights["layers.1.w_up"] = llama.weights["layers.1.w_up"].view(Broken)
    with pytest.raises(MemoryError):
        ml.save(llama, its_tokenizer, folder)
    assert contents(folder) == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_saved_files_can_be_read_by_others(folder):
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o644}


def test_save_refuses_an_unknown_dtype_and_writes_nothing(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="dtype is 'F64'; it must be one of F32, F16, BF16"):
        ml.save(tiny_llama(), tokenizer, tmp_path / "new", dtype="F64")
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------------------ files that are not there

def test_a_missing_folder_is_named(tmp_path):
    assert refusal(tmp_path / "nowhere", FileNotFoundError).startswith(f"{tmp_path / 'nowhere'}: no such folder; a checkpoint is a folder with")


def test_a_file_in_place_of_a_folder_is_named(folder):
    assert str(folder / "config.json") in refusal(folder / "config.json", FileNotFoundError)


@pytest.mark.parametrize("path", ["a" * 5000, "a\0b", "\ud800"])
def test_a_path_that_no_system_could_hold_is_a_missing_folder(path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        ml.load(path)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.model"])
@pytest.mark.parametrize("instead", ["nothing", "a folder"])
def test_a_missing_file_is_named(folder, file, instead):
    (folder / file).unlink()
    if instead == "a folder":
        (folder / file).mkdir()
    assert refusal(folder, FileNotFoundError).startswith(f"{folder / file}: not there")


def test_without_weights_the_message_says_where_they_were_looked_for(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = refusal(folder, FileNotFoundError)
    assert "model.safetensors.index.json" in message and "must be safetensors" in message


def test_without_a_path_the_checkpoint_that_ships_is_loaded():
    assert SHIPPED.resolve() == (ROOT / "data").resolve()


# ------------------------------------------------------------------ something else in a file's place

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html><html><head><title>Not found</title></head><body>" + b"<p>Sorry.</p>" * 20 + b"</body></html>"


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "model.safetensors.index.json", "model-00002-of-00003.safetensors"])
@pytest.mark.parametrize("content, hint", [(POINTER, "it is a git-lfs pointer: run 'git lfs pull' to fetch the file itself"),
                                           (PAGE, "it is a web page, not the file: download it again"),
                                           (b"", ""), (b"{", ""), (b"\xff\xfe{\0}\0", ""), (b"PK\x03\x04" + bytes(100), "")])
def test_something_else_in_place_of_a_file_is_named_for_what_it_is(folder, file, content, hint):
    if file.startswith("model") and file != "model.safetensors":
        split(folder)
    (folder / file).write_bytes(content)
    message = refusal(folder)
    assert message.startswith(f"{folder / file}: ") and message.endswith(hint or message)
    assert ("not valid JSON" if file.endswith("json") else f"{len(content)} bytes") in message


@pytest.mark.parametrize("content", [POINTER, PAGE, b"", b"\x0a", bytes(100)])
def test_something_else_in_place_of_the_tokenizer_is_refused_by_name(folder, content):
    (folder / "tokenizer.model").write_bytes(content)
    assert str(folder / "tokenizer.model") in refusal(folder)


# ------------------------------------------------------------------ damaged weights

def test_a_file_cut_short_anywhere_is_refused(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    header_end = 8 + int.from_bytes(content[:8], "little")
    cuts = [0, 1, 7, 8, 9, 10, 20, header_end - 1, header_end, header_end + 1, len(content) // 2, len(content) - 1]
    for cut in cuts:
        path.write_bytes(content[:cut])
        message = refusal(folder)
        assert message.startswith(f"{path}: ") and f"{cut} bytes" in message and "cut short" in message, cut
    path.write_bytes(content + b"\0")
    assert f"{len(content) + 1} bytes, but its header describes {len(content)}" in refusal(folder)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_a_header_length_that_cannot_be_is_refused(folder, length):
    path = folder / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    message = refusal(folder)
    assert message.startswith(f"{path}: ")
    assert f"a header of {length} expected" in message if length > 1 else "not valid JSON" in message


def test_a_header_that_is_no_object_is_refused(folder):
    path = folder / "model.safetensors"
    for header in ([], "model", 12345, None):
        write_raw(path, header, b"")
        assert refusal(folder) == f"{path}: its header must be one JSON object"


@pytest.mark.parametrize("name, change, words", [
    ("overlap", {"data_offsets": [0, 80]}, "begins at byte 0 of the data, where 80 was expected: tensors overlap or leave a gap"),
    ("gap", {"data_offsets": [400, 480]}, "tensors overlap or leave a gap"),
    ("wrong span", {"data_offsets": [80, 161]}, "of shape [20] in F32 needs 80 bytes, its offsets span 81"),
    ("backwards", {"data_offsets": [160, 80]}, "needs 80 bytes, its offsets span -80"),
    ("wrong shape", {"shape": [21]}, "of shape [21] in F32 needs 84 bytes, its offsets span 80"),
    ("huge shape", {"shape": [2**62, 2**62]}, f"needs {2**126} bytes, its offsets span 80"),
    ("half the dtype", {"dtype": "F16"}, "of shape [20] in F16 needs 40 bytes, its offsets span 80"),
    ("unsupported dtype", {"dtype": "F64"}, "is of dtype 'F64'; this package reads F32, F16, BF16"),
    ("integers", {"dtype": "I64"}, "is of dtype 'I64'; this package reads F32, F16, BF16"),
    ("eight bits", {"dtype": "F8_E4M3"}, "is of dtype 'F8_E4M3'; this package reads F32, F16, BF16"),
    ("negative shape", {"shape": [-4, -5]}, "needs a dtype, a shape and two data_offsets"),
    ("negative offsets", {"data_offsets": [-80, 0]}, "needs a dtype, a shape and two data_offsets"),
    ("fractions", {"shape": [20.0]}, "needs a dtype, a shape and two data_offsets"),
    ("truths", {"shape": [True] * 20}, "needs a dtype, a shape and two data_offsets"),
    ("text", {"shape": "20"}, "needs a dtype, a shape and two data_offsets"),
    ("one offset", {"data_offsets": [80]}, "needs a dtype, a shape and two data_offsets"),
    ("a list as dtype", {"dtype": ["F32"]}, "needs a dtype, a shape and two data_offsets"),
    ("an object as dtype", {"dtype": {}}, "needs a dtype, a shape and two data_offsets"),
    ("no dtype", {"dtype": None}, "needs a dtype, a shape and two data_offsets"),
])
def test_an_entry_that_cannot_be_is_refused(folder, name, change, words):
    path = folder / "model.safetensors"
    header, data = header_and_data(path)
    entries = {key: header[key] for key in ("model.norm.weight", "model.layers.1.input_layernorm.weight")}
    for i, entry in enumerate(entries.values()):
        entry["data_offsets"] = [80 * i, 80 * i + 80]
    entries["model.layers.1.input_layernorm.weight"] |= change
    write_raw(path, entries, data[:160])
    message = refusal(folder)
    assert message.startswith(f"{path}: 'model.") and words in message


@pytest.mark.parametrize("entry", [None, 5, "F32", [], ["F32", [20], [0, 80]], {}, {"dtype": "F32"}])
def test_an_entry_of_another_form_is_refused(folder, entry):
    path = folder / "model.safetensors"
    write_raw(path, {"model.norm.weight": entry}, bytes(80))
    assert refusal(folder) == (f"{path}: 'model.norm.weight' needs a dtype, a shape and two data_offsets, not {entry!r}")


def test_a_tensor_that_stands_twice_in_a_header_is_refused(folder):
    path = folder / "model.safetensors"
    header, data = header_and_data(path)
    text = json.dumps(header)[:-1] + ', "model.norm.weight": ' + json.dumps(header["model.norm.weight"]) + "}"
    write_raw(path, text.encode(), data)
    message = refusal(folder)
    assert message.startswith(f"{path}: ") and "['model.norm.weight'] stand there more than once" in message


def test_a_tensor_that_stands_twice_in_an_index_is_refused(folder):
    weight_map = split(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": ' + json.dumps(weight_map)[:-1] + ', "lm_head.weight": "other.safetensors"}}', encoding="utf-8")
    message = refusal(folder)
    assert message.startswith(f"{index}: ") and "['lm_head.weight'] stand there more than once" in message


def test_a_setting_that_stands_twice_is_refused(folder):
    path = folder / "config.json"
    path.write_text(path.read_text(encoding="utf-8").replace("{", '{"hidden_size": 24, ', 1), encoding="utf-8")
    message = refusal(folder)
    assert message.startswith(f"{path}: ") and "['hidden_size'] stand there more than once" in message


# ------------------------------------------------------------------ weights that do not fit the config

def test_all_that_is_missing_unexpected_and_misshapen_is_said_at_once(folder):
    path = folder / "model.safetensors"
    weights = {hugging_face_name(name): weight for name, weight in tiny_llama().weights.items()}
    del weights["model.layers.0.self_attn.k_proj.weight"], weights["model.norm.weight"]
    weights["model.layers.1.mlp.up_proj.weight"] = weights["model.layers.1.mlp.up_proj.weight"].T
    weights["lm_head.weight"] = weights["lm_head.weight"][1:]
    weights["model.layers.0.self_attn.q_proj.bias"] = np.zeros(24, np.float32)
    weights["model.layers.2.mlp.up_proj.weight"] = np.zeros((28, 20), np.float32)
    write_safetensors(path, weights)
    begin, _, message = refusal(folder).partition(" the weights do not fit config.json: ")
    assert begin == f"{folder}:"
    for words in ("missing model.layers.0.self_attn.k_proj.weight [8, 20]", "missing model.norm.weight [20]",
                  "model.layers.1.mlp.up_proj.weight is [20, 28], expected [28, 20]", "lm_head.weight is [352, 20], expected [353, 20]",
                  "model.layers.0.self_attn.q_proj.bias", "[24]", "model.layers.2.mlp.up_proj.weight", "[28, 20]"):
        assert words in message, words
    assert message.count("missing") == message.count("unexpected") == message.count("expected [") == 2


def test_a_transposed_square_weight_could_not_be_seen_but_a_flat_one_is(folder):
    """Shapes are compared as they are, not by their number of elements."""
    weights = {hugging_face_name(name): weight for name, weight in tiny_llama().weights.items()}
    weights["model.norm.weight"] = weights["model.norm.weight"].reshape(1, 20)
    weights["model.layers.0.self_attn.o_proj.weight"] = weights["model.layers.0.self_attn.o_proj.weight"].reshape(-1)
    write_safetensors(folder / "model.safetensors", weights)
    message = refusal(folder)
    assert "model.norm.weight is [1, 20], expected [20]" in message
    assert "model.layers.0.self_attn.o_proj.weight is [480], expected [20, 24]" in message


@pytest.mark.parametrize("change, words", [
    ({"num_hidden_layers": 3}, "missing model.layers.2.input_layernorm.weight [20]"),
    ({"num_hidden_layers": 1}, "model.layers.1.input_layernorm.weight"),
    ({"num_hidden_layers": 10**12}, f"config.json says {10**12} layers, the files hold 21 tensors in all"),
    ({"hidden_size": 22}, "model.norm.weight is [20], expected [22]"),
    ({"num_attention_heads": 4}, "model.layers.0.self_attn.q_proj.weight is [24, 20], expected [16, 20]"),
    ({"num_key_value_heads": 3}, "model.layers.0.self_attn.k_proj.weight is [8, 20], expected [12, 20]"),
    ({"head_dim": 8}, "model.layers.0.self_attn.q_proj.weight is [24, 20], expected [48, 20]"),
    ({"intermediate_size": 29}, "model.layers.1.mlp.down_proj.weight is [20, 28], expected [20, 29]"),
    ({"vocab_size": 354}, "model.embed_tokens.weight is [353, 20], expected [354, 20]"),
])
def test_a_config_of_another_model_is_refused(folder, change, words):
    edit_config(folder, **change)
    message = refusal(folder)
    assert message.startswith(f"{folder}: ") and words in message


def test_a_config_of_a_tied_model_misses_no_head_but_an_untied_one_does(folder, tmp_path, tokenizer):
    ml.save(tiny_llama(tied=True), tokenizer, tmp_path / "tied")
    edit_config(tmp_path / "tied", tie_word_embeddings=False)
    assert "missing lm_head.weight [353, 20]" in refusal(tmp_path / "tied")


def test_extra_tensors_that_say_nothing_new_are_harmless(folder, tmp_path, tokenizer):
    llama = tiny_llama(tied=True)
    ml.save(llama, tokenizer, tmp_path / "tied")
    weights = {hugging_face_name(name): weight for name, weight in llama.weights.items()}
    extra = {"lm_head.weight": weights["model.embed_tokens.weight"], "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32),
             "model.rotary_emb.inv_freq": np.ones(2, np.float16)}
    write_safetensors(tmp_path / "tied" / "model.safetensors", weights | extra)
    loaded, _ = ml.load(tmp_path / "tied")
    assert loaded.weights.keys() == llama.weights.keys()
    assert all(same_bits(loaded.weights[name], weight) for name, weight in llama.weights.items())


def test_a_tied_config_with_another_head_is_refused(folder):
    """transformers would use the head in the file: silently taking the embedding would be a wrong model."""
    edit_config(folder, tie_word_embeddings=True)
    message = refusal(folder)
    assert str(folder) in message and "tie_word_embeddings" in message and "lm_head.weight" in message


def test_a_tied_config_with_a_head_of_another_shape_is_refused(tmp_path, tokenizer):
    llama = tiny_llama(tied=True)
    ml.save(llama, tokenizer, tmp_path)
    weights = {hugging_face_name(name): weight for name, weight in llama.weights.items()}
    write_safetensors(tmp_path / "model.safetensors", weights | {"lm_head.weight": np.zeros((3, 20), np.float32)})
    assert "lm_head.weight" in refusal(tmp_path)


# ------------------------------------------------------------------ an index that is wrong

def test_an_index_that_names_a_missing_file_is_refused(folder):
    split(folder)
    missing = folder / "model-00002-of-00003.safetensors"
    missing.unlink()
    assert refusal(folder, FileNotFoundError) == f"{missing}: not there, though model.safetensors.index.json names it"


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", ".", "a\nb", "\ud800", 5, None, ["a"]])
def test_an_index_that_names_no_file_of_the_folder_is_refused(folder, file):
    weight_map = split(folder)
    write_index(folder, weight_map | {"lm_head.weight": file})
    index = folder / "model.safetensors.index.json"
    assert refusal(folder) == f"{index}: its 'weight_map' must give every tensor the name of a file in this folder"


def test_an_index_with_a_name_that_no_system_could_hold_is_refused(folder):
    write_index(folder, split(folder) | {"lm_head.weight": "a" * 5000})
    assert str(folder) in refusal(folder, FileNotFoundError)


@pytest.mark.parametrize("index", [[], {}, {"weight_map": None}, {"weight_map": ["model.safetensors"]}, {"weight_map": "x"}])
def test_an_index_without_a_weight_map_is_refused(folder, index):
    split(folder)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index), encoding="utf-8")
    assert refusal(folder) == f"{path}: its 'weight_map' must give every tensor the name of a file in this folder"


def test_an_index_that_expects_a_tensor_in_another_file_is_refused(folder):
    weight_map = split(folder)
    name = next(iter(weight_map))
    right, wrong = weight_map[name], "model-00003-of-00003.safetensors"
    write_index(folder, weight_map | {name: wrong})
    assert refusal(folder) == f"{folder / right}: holds {name!r}, which model.safetensors.index.json expects in {wrong}"


def test_an_index_that_does_not_list_a_tensor_is_refused(folder):
    weight_map = split(folder)
    file = weight_map.pop("lm_head.weight")
    write_index(folder, weight_map)
    assert refusal(folder) == f"{folder / file}: holds 'lm_head.weight', which model.safetensors.index.json does not list"


def test_a_tensor_that_lies_in_two_files_is_refused(folder):
    weight_map = split(folder)
    path = folder / "model-00003-of-00003.safetensors"
    header, data = header_and_data(path)
    other = next(name for name, file in weight_map.items() if file != path.name and name.endswith("input_layernorm.weight"))
    write_raw(path, header | {other: {"dtype": "F32", "shape": [20], "data_offsets": [len(data), len(data) + 80]}}, data + bytes(80))
    assert refusal(folder) == f"{path}: holds {other!r}, which model.safetensors.index.json expects in {weight_map[other]}"


def test_a_tensor_that_its_file_lacks_is_missing(folder):
    weight_map = split(folder)
    path = folder / weight_map["lm_head.weight"]
    header, data = header_and_data(path)
    del header["lm_head.weight"]
    size, parts = 0, b""
    for entry in header.values():
        begin, end = entry["data_offsets"]
        entry["data_offsets"], parts = [size, size + end - begin], parts + data[begin:end]
        size += end - begin
    write_raw(path, header, parts)
    assert refusal(folder) == f"{folder}: the weights do not fit config.json: missing lm_head.weight [353, 20]"


# ------------------------------------------------------------------ config and tokenizer

@pytest.mark.parametrize("changes, words", [
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling is 'llama3'"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0}}, "rope_scaling is 'yarn'"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ({"model_type": "mistral"}, "model_type is 'mistral'"),
    ({"attention_bias": True}, "attention_bias is True"),
    ({"hidden_size": "20"}, "dim is '20'"),
    ({"rms_norm_eps": 0}, "norm_eps is 0"),
    ({"rms_norm_eps": float("nan")}, "norm_eps is nan"),
    ({"rms_norm_eps": 10**400}, "norm_eps is 1000"),
    ({"rms_norm_eps": 1e300}, "norm_eps is 1e+300"),
    ({"rope_parameters": {"rope_theta": 10**400}}, "theta_base is 1000"),
    ({"bos_token_id": VOCAB_SIZE}, f"bos_id is {VOCAB_SIZE}"),
    ({"bos_token_id": -1}, "bos_id is -1"),
    ({"bos_token_id": "1"}, "bos_id is '1'"),
    ({"eos_token_id": VOCAB_SIZE}, f"eos_id is {VOCAB_SIZE}"),
    ({"eos_token_id": [2, VOCAB_SIZE]}, f"eos_id is [2, {VOCAB_SIZE}]"),
    ({"eos_token_id": 2.0}, "eos_id is 2.0"),
    ({"eos_token_id": True}, "eos_id is True"),
])
def test_a_config_that_is_not_supported_or_cannot_be_names_the_file_and_the_setting(folder, changes, words):
    edit_config(folder, **changes)
    message = refusal(folder)
    assert message.startswith(f"{folder / 'config.json'}: ") and words in message


@pytest.mark.parametrize("change, bos_id, eos_id", [({"bos_token_id": None, "eos_token_id": None}, None, None),
                                                    ({"bos_token_id": 0, "eos_token_id": VOCAB_SIZE - 1}, 0, VOCAB_SIZE - 1)])
def test_begin_and_end_tokens_may_be_any_token_or_absent(folder, change, bos_id, eos_id):
    edit_config(folder, **change)
    config = ml.load(folder)[0].config
    assert (config.bos_id, config.eos_id) == (bos_id, eos_id)


def test_several_end_tokens_are_read_as_later_llamas_write_them(folder):
    edit_config(folder, eos_token_id=[2, 7])
    assert list(ml.load(folder)[0].config.eos_id) == [2, 7]


def test_a_tokenizer_of_another_model_is_refused(tmp_path, tokenizer):
    ml.save(tiny_llama(vocab_size=354), tokenizer, tmp_path)
    message = refusal(tmp_path)
    assert message == (f"{tmp_path / 'tokenizer.model'}: 353 pieces, but config.json says vocab_size 354; "
                       "take the tokenizer that belongs to the model")


def test_a_config_is_refused_before_a_weight_is_read(folder):
    edit_config(folder, hidden_act="relu")
    (folder / "model.safetensors").write_bytes(b"")
    assert "hidden_act is 'relu'" in refusal(folder)


# ------------------------------------------------------------------ reading a single tensor

def test_a_tensor_is_read_from_its_own_place(tmp_path):
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7.5, np.float32)
    write_safetensors(tmp_path / "x", {"a": a, "empty": np.zeros((0, 4), np.float32), "b": b})
    places = read_header(tmp_path / "x")
    assert (read_tensor(*places["a"]) == a).all() and read_tensor(*places["b"]) == b and read_tensor(*places["b"]).shape == ()
    assert read_tensor(*places["empty"]).shape == (0, 4)
    assert [place[1] for place in places.values()] == ["F32"] * 3
    assert sum(math.prod(place[2]) for place in places.values()) == 7


def test_a_tokenizer_object_keeps_the_path_it_came_from(tokenizer):
    assert SentencePieceTokenizer(str(tokenizer.path)).path == tokenizer.path
    assert tiny_config().vocab_size == tokenizer.vocab_size
