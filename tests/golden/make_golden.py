"""Golden values from transformers, for tests that then need neither transformers nor torch.

    python tests/golden/make_golden.py             random Llamas: a folder for each below this file, with its logits and gradients;
                                                   then the other way round: transformers reads what minillama saved
    python tests/golden/make_golden.py shipped     shipped.npz, some logits of the checkpoint in data/

To be run in an environment of its own with torch (CPU), transformers 5, numpy, safetensors and sentencepiece.
"""

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from minillama.checkpoint import check_tensors, find_tensors, hugging_face_name, read_config, read_tensor, save
from minillama.model import Llama, weight_shapes
from minillama.tokenizer import SentencePieceTokenizer

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "vocab_size")
CASES = {  # sizes, tied, theta_base, eps, dtype of the file, largest shard, shape of the ids
    "heads_8_2_tied": ((24, 2, 8, 2, 6, 33, 37), True, 10_000.0, 1e-5, torch.float32, "1GB", (2, 13)),
    "heads_9_3_bf16": ((36, 2, 9, 3, None, 21, 41), False, 10_000.0, 1e-6, torch.bfloat16, "1GB", (3, 2, 7)),
    "heads_4_4_sharded": ((32, 2, 4, 4, None, 19, 43), False, 500_000.0, 1e-2, torch.float32, "20KB", (70,)),
    "heads_8_1_f16": ((16, 3, 8, 1, 6, 27, 31), True, 500.0, 1e-3, torch.float16, "1GB", (2, 5)),
}
GRADIENTS = ("heads_8_2_tied", "heads_4_4_sharded")
TEXT = """Once upon a time, a little fox named Max lived near the river. One sunny morning he wanted to find his red kite. \
He looked under the old tree, but it was not there. "Where is my kite?" he asked. His friend Lily, a small rabbit, came to help. \
They walked to the hill and looked up. The kite was in the top of the tall tree! Max was too small to reach it. \
Lily had an idea. She climbed on his back, and together they got the kite down. "Thank you," said Max. \
He was very happy, and the two friends played until the sun went down."""


def random_model(name):
    """A Llama of transformers with random weights, norms as well, of such widths that logits are of order 1."""
    sizes, tied, theta_base, eps, dtype, _, _ = CASES[name]
    config = LlamaConfig(**dict(zip(SIZES, sizes, strict=True)), max_position_embeddings=128, rms_norm_eps=eps, tie_word_embeddings=tied,
                         rope_parameters={"rope_type": "default", "rope_theta": theta_base})
    model = LlamaForCausalLM(config)
    rng = np.random.default_rng(list(name.encode()))
    for key, weight in model.named_parameters():
        x = rng.standard_normal(tuple(weight.shape))
        if key.endswith("norm.weight"):
            x = 1 + 0.3 * x
        else:
            x *= weight.shape[1] ** -0.5
        weight.data = torch.from_numpy(x.astype(np.float32))
    return model.to(dtype)


def read_in_transformers(folder):
    """The model of a folder in float32, with the plainest attention; nothing in it may be missing or left over."""
    model, report = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def read_in_minillama(folder):
    """The model of a folder that has no tokenizer."""
    config, tensors = read_config(folder), find_tensors(folder)
    check_tensors(folder, config, tensors)
    return Llama(config, {name: read_tensor(*tensors[hugging_face_name(name)]) for name in weight_shapes(config)})


def logits_of(model, ids):
    """ids [..., T] → logits [..., T, vocab_size] of a model of transformers, which wants exactly one batch axis."""
    with torch.no_grad():
        logits = model(torch.from_numpy(ids.reshape(-1, ids.shape[-1]))).logits.numpy()
    return logits.reshape(*ids.shape, -1)


def gradients_of(model, ids, targets):
    """The summed loss, and its gradient for every weight by its Hugging Face name."""
    logits = model(torch.from_numpy(ids.reshape(-1, ids.shape[-1]))).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets.reshape(-1)), ignore_index=-1, reduction="sum")
    loss.backward()
    return {"loss": loss.detach().numpy()} | {name: weight.grad.numpy() for name, weight in model.named_parameters()}


def make_random_cases():
    for name, (sizes, _, _, _, _, largest_shard, shape) in CASES.items():
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        random_model(name).save_pretrained(folder, max_shard_size=largest_shard)
        model = read_in_transformers(folder)
        ids = np.random.default_rng(1).integers(0, sizes[-1], shape)
        golden = {"ids": ids, "logits": logits_of(model, ids)}
        if name in GRADIENTS:
            golden["targets"] = np.random.default_rng(2).integers(-1, sizes[-1], shape)
            golden["targets"][..., -2:] = -1
            golden |= gradients_of(model, ids, golden["targets"])
        np.savez_compressed(folder / "golden.npz", **golden)
        print(f"{name}: logits {list(golden['logits'].shape)} of standard deviation {golden['logits'].std():.2f}, "
              f"{sum(file.stat().st_size for file in folder.iterdir()) / 1000:.0f} kB in {len(list(folder.iterdir()))} files")
        assert 0.5 < golden["logits"].std() < 2


def transformers_reads_what_minillama_saves():
    for name in CASES:
        llama, golden = read_in_minillama(HERE / name), np.load(HERE / name / "golden.npz")
        for dtype in ("F32", "F16", "BF16"):
            with tempfile.TemporaryDirectory() as temporary:
                tokenizer = SimpleNamespace(path=Path(temporary) / "tokenizer.model")      # save copies it; neither reads it here
                tokenizer.path.touch()
                folder = Path(temporary) / "saved"
                save(llama, tokenizer, folder, dtype)
                logits = logits_of(read_in_transformers(folder), golden["ids"])
                error = np.abs(logits - read_in_minillama(folder)(golden["ids"])).max()
                change = np.abs(logits - golden["logits"]).max()
                print(f"{name} saved by minillama as {dtype}, read by transformers: largest difference of logits {error:.1e}, "
                      f"to those before saving {change:.1e}")
                assert error < 1e-5 and change < {"F32": 1e-5, "F16": 1e-2, "BF16": 1e-1}[dtype]


def make_shipped(folder=ROOT / "data", path=HERE / "shipped.npz"):
    """Logits at every eighth position of a text; with a digest of the weights, since a new checkpoint needs new logits."""
    ids = np.array(SentencePieceTokenizer(folder / "tokenizer.model").encode(TEXT))
    positions = np.arange(7, len(ids), 8)
    logits = logits_of(read_in_transformers(folder), ids)[positions]
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    np.savez_compressed(path, ids=ids, positions=positions, logits=logits, sha256=digest)
    print(f"{path.name}: {len(ids)} ids, logits {list(logits.shape)} of standard deviation {logits.std():.2f}, "
          f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    if sys.argv[1:] == ["shipped"]:
        make_shipped()
    elif not sys.argv[1:]:
        make_random_cases()
        transformers_reads_what_minillama_saves()
    else:
        sys.exit(__doc__)
