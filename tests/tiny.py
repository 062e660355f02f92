"""What several tests need: a tiny tokenizer, and a tiny Llama no two of whose sizes are equal."""

import sys
from pathlib import Path

import numpy as np
import pytest

from minillama import Llama, LlamaConfig
from minillama.model import weight_shapes
from minillama.tokenizer import SentencePieceTokenizer

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "data"))

VOCAB_SIZE = 353


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """Byte pair encoding with byte fallback, learned from sixty stories as the one that ships is from thousands."""
    import sentencepiece
    from stories import tell

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    lines = [line for seed in range(60) for line in tell(seed).text.split("\n")]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(path.with_suffix("")), model_type="bpe", vocab_size=VOCAB_SIZE,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        character_coverage=1.0, num_threads=1, minloglevel=2)
    return SentencePieceTokenizer(path)


def tiny_config(**changes):
    sizes = dict(dim=20, n_layers=2, n_heads=6, n_kv_heads=2, head_dim=4, hidden_dim=28, vocab_size=VOCAB_SIZE, max_seq_len=40,
                 norm_eps=1e-5, theta_base=10000.0, tied=False, bos_id=1, eos_id=2)
    return LlamaConfig(**sizes | changes)


def tiny_llama(seed=0, **changes):
    """Random weights, wide enough that the logits differ, and random norms."""
    config, rng = tiny_config(**changes), np.random.default_rng(seed)
    return Llama(config, {name: (0.3 * rng.standard_normal(shape) + name.endswith("norm")).astype(np.float32)
                          for name, shape in weight_shapes(config).items()})
