"""A model on disk: the Hugging Face folder, read and written without any conversion.

    config.json                    the sizes, see `LlamaConfig`
    model.safetensors              the weights; or several files and model.safetensors.index.json
    tokenizer.model                the SentencePiece tokenizer

A safetensors file is eight bytes with the length of a header, the header (JSON: name → dtype, shape,
first and last byte), and the numbers. Every claim of the header is checked against the file's size
and the configuration before a weight is read, so that a damaged file ends in one clear error.
"""

import json
import math
import os
import reprlib
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from .config import LlamaConfig
from .model import Llama, weight_shapes
from .tokenizer import SentencePieceTokenizer

SHIPPED = Path(__file__).parent.parent / "data"        # the checkpoint that comes with this repository

HUGGING_FACE_NAMES = {
    "embedding": "model.embed_tokens.weight",
    "attn_norm": "model.layers.{}.input_layernorm.weight",
    "wq": "model.layers.{}.self_attn.q_proj.weight",
    "wk": "model.layers.{}.self_attn.k_proj.weight",
    "wv": "model.layers.{}.self_attn.v_proj.weight",
    "wo": "model.layers.{}.self_attn.o_proj.weight",
    "ffn_norm": "model.layers.{}.post_attention_layernorm.weight",
    "w_gate": "model.layers.{}.mlp.gate_proj.weight",
    "w_up": "model.layers.{}.mlp.up_proj.weight",
    "w_down": "model.layers.{}.mlp.down_proj.weight",
    "final_norm": "model.norm.weight",
    "lm_head": "lm_head.weight",
}
BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def hugging_face_name(name):
    """'layers.3.wq' → 'model.layers.3.self_attn.q_proj.weight'"""
    *layer, short = name.split(".")
    return HUGGING_FACE_NAMES[short].format(*layer[1:])


def load(path=None):
    """(Llama, tokenizer) from a folder; without a path, the checkpoint that ships.

    Raises FileNotFoundError for what is not there and ValueError for what cannot be right, naming the file.
    """
    folder = Path(path) if path is not None else SHIPPED
    config = read_config(folder)
    tensors = find_tensors(folder)
    check_tensors(folder, config, tensors)
    tokenizer = SentencePieceTokenizer(folder / "tokenizer.model")
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(f"{folder / 'tokenizer.model'}: {tokenizer.vocab_size} pieces, but config.json says vocab_size "
                         f"{config.vocab_size}; take the tokenizer that belongs to the model")
    weights = {name: read_tensor(*tensors[hugging_face_name(name)]) for name in weight_shapes(config)}
    if config.tied and "lm_head.weight" in tensors and not np.array_equal(read_tensor(*tensors["lm_head.weight"]), weights["embedding"]):
        raise ValueError(f"{folder}: config.json says tie_word_embeddings, but lm_head.weight is not the same as "
                         "model.embed_tokens.weight; one of the two is wrong")
    return Llama(config, weights), tokenizer


def read_json(path):
    """The contents of a JSON file; a key that stands twice is an error."""
    def no_duplicates(pairs):
        if len(dict(pairs)) < len(pairs):
            twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
            raise ValueError(f"{sorted(twice)[:5]} stand there more than once")
        return dict(pairs)

    text = path if isinstance(path, bytes) else Path(path).read_bytes()
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=no_duplicates)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not valid JSON ({error}){what_instead(text)}") from None


def what_instead(start):
    """A hint at what lies in place of a model file, from its first bytes."""
    if start.startswith(b"version https://git-lfs"):
        return "; it is a git-lfs pointer: run 'git lfs pull' to fetch the file itself"
    if start.lstrip()[:1] == b"<":
        return "; it is a web page, not the file: download it again"
    return ""


def read_config(folder):
    path = folder / "config.json"
    if not os.path.isdir(folder):                                              # Path.is_dir raises for some names
        raise FileNotFoundError(f"{folder}: no such folder; a checkpoint is a folder with config.json, model.safetensors and tokenizer.model")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: not there; a checkpoint is a folder with config.json, model.safetensors and tokenizer.model")
    try:
        return LlamaConfig.from_hugging_face(read_json(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def find_tensors(folder):
    """Where every tensor of the folder lies: {Hugging Face name: (path, dtype, shape, offset)}."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        return read_header(folder / "model.safetensors")
    if not index.is_file():
        raise FileNotFoundError(f"{folder / 'model.safetensors'}: not there, nor {index.name}; the weights must be safetensors")
    try:
        weight_map = read_json(index)
        weight_map = weight_map.get("weight_map") if isinstance(weight_map, dict) else None
        if not isinstance(weight_map, dict) or not all(isinstance(f, str) and f == Path(f).name and f.isprintable() for f in weight_map.values()):
            raise ValueError("its 'weight_map' must give every tensor the name of a file in this folder")
    except ValueError as error:
        raise ValueError(f"{index}: {error}") from None
    tensors = {}
    for file in sorted(set(weight_map.values())):
        if not os.path.isfile(folder / file):
            raise FileNotFoundError(f"{folder / file}: not there, though {index.name} names it")
        for name, place in read_header(folder / file).items():
            if weight_map.get(name) != file:
                raise ValueError(f"{folder / file}: holds {name!r}, which {index.name} "
                                 f"{'expects in ' + weight_map[name] if name in weight_map else 'does not list'}")
            tensors[name] = place
    return tensors


def read_header(path):
    """{name: (path, dtype, shape, offset)} of one safetensors file, after every check that needs no other file."""
    try:
        return parse_header(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse_header(path):
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(64)
        length = int.from_bytes(start[:8], "little")
        if size < 10 or length > size - 8:
            raise ValueError(f"no safetensors file, or cut short: {size} bytes, and a header of {length} expected{what_instead(start)}")
        file.seek(8)
        header = read_json(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header must be one JSON object")
    header.pop("__metadata__", None)
    tensors, ranges = {}, []
    for name, entry in header.items():
        try:
            dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            fits = type(dtype) is str and type(shape) is list and all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        except (TypeError, KeyError, ValueError):
            fits = False
        if not fits:
            raise ValueError(f"{name!r} needs a dtype, a shape and two data_offsets, not {reprlib.repr(entry)}")
        if dtype not in BYTES:
            raise ValueError(f"{name!r} is of dtype {dtype!r}; this package reads {', '.join(BYTES)}")
        if end - begin != math.prod(shape) * BYTES[dtype]:
            raise ValueError(f"{name!r} of shape {shape} in {dtype} needs {math.prod(shape) * BYTES[dtype]} bytes, its offsets span {end - begin}")
        tensors[name] = (path, dtype, tuple(shape), 8 + length + begin)
        ranges.append((begin, end, name))
    filled = 0
    for begin, end, name in sorted(ranges):
        if begin != filled:
            raise ValueError(f"{name!r} begins at byte {begin} of the data, where {filled} was expected: tensors overlap or leave a gap")
        filled = end
    if 8 + length + filled != size:
        raise ValueError(f"{size} bytes, but its header describes {8 + length + filled}: the file is cut short or has something added")
    return tensors


def check_tensors(folder, config, tensors):
    """All that is missing, unexpected or of a wrong shape, in one message."""
    if config.n_layers > len(tensors):                                         # before a list of a damaged size is made
        raise ValueError(f"{folder}: config.json says {config.n_layers} layers, the files hold {len(tensors)} tensors in all")
    expected = {hugging_face_name(name): shape for name, shape in weight_shapes(config).items()}
    complaints = [f"missing {name} {list(shape)}" for name, shape in expected.items() if name not in tensors]
    complaints += [f"{name} is {list(tensors[name][2])}, expected {list(shape)}"
                   for name, shape in expected.items() if name in tensors and tensors[name][2] != shape]
    # Some old files carry RoPE's frequencies, and a tied model may store its table twice: both say nothing new.
    harmless = {"lm_head.weight"} if config.tied else set()
    complaints += [f"unexpected {name!r} {list(place[2])}" for name, place in tensors.items()
                   if name not in expected and name not in harmless and not name.endswith("rotary_emb.inv_freq")]
    if complaints:
        raise ValueError(f"{folder}: the weights do not fit config.json: " + "; ".join(complaints))


def read_tensor(path, dtype, shape, offset):
    """One tensor as float32."""
    numbers = np.fromfile(path, {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[dtype], count=math.prod(shape), offset=offset)
    if dtype == "BF16":                                                        # the upper half of a float32
        numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
    return numbers.astype(np.float32, copy=False).reshape(shape)


def to_bfloat16(x):
    """float32 → the 16 bits of bfloat16, rounded to nearest, ties to even. NaN stays NaN."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded)


def write_safetensors(path, tensors, metadata=None):
    """{name: array} to one file: float32 as F32, float16 as F16, uint16 as the bits of BF16.

    The file is written beside its place and then moved there: it is the old one or the new one, never half of it.
    """
    dtypes = {"float32": "F32", "float16": "F16", "uint16": "BF16"}
    header, end = {"__metadata__": metadata or {}}, 0
    for name, x in tensors.items():
        header[name] = {"dtype": dtypes[str(x.dtype)], "shape": list(x.shape), "data_offsets": [end, end + x.nbytes]}
        end += x.nbytes
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % 8)                                            # so that the numbers begin at a multiple of 8
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for x in tensors.values():
            file.write(x.astype(x.dtype.newbyteorder("<")).tobytes())          # row by row, whatever the layout in memory


class replacing:
    """`with replacing(path) as temporary:` write to temporary; it takes path's place at the end, or vanishes on an error."""

    def __init__(self, path):
        self.path = Path(path)

    def __enter__(self):
        handle, self.temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        os.close(handle)
        return self.temporary

    def __exit__(self, error, *_):
        try:
            if error is None:
                os.chmod(self.temporary, 0o644)
                os.replace(self.temporary, self.path)
        finally:
            Path(self.temporary).unlink(missing_ok=True)


def save(llama, tokenizer, path, dtype="F32"):
    """Write a folder that `load` and transformers read. dtype: 'F32', 'F16' or 'BF16', to which the weights are rounded."""
    if dtype not in BYTES:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(BYTES)}")
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    convert = {"F32": lambda x: x.astype(np.float32), "F16": lambda x: x.astype(np.float16), "BF16": to_bfloat16}[dtype]
    torch_dtype = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype]
    write_safetensors(folder / "model.safetensors", {hugging_face_name(name): convert(x) for name, x in llama.weights.items()},
                      {"format": "pt"})                                        # transformers asks for this line
    with replacing(folder / "config.json") as temporary:
        Path(temporary).write_text(json.dumps(llama.config.to_hugging_face() | {"torch_dtype": torch_dtype}, indent=2) + "\n", encoding="utf-8")
    if tokenizer.path.resolve() != (folder / "tokenizer.model").resolve():
        with replacing(folder / "tokenizer.model") as temporary:
            shutil.copyfile(tokenizer.path, temporary)
