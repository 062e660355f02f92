"""Make the checkpoint that ships, from nothing: stories → tokenizer → training → evaluation.

    python data/train.py

It takes about three hours on two cores. Stop it whenever you like: the same command goes on where
it was. What it makes on the way lies in `data/run/`; at the end config.json, model.safetensors and
tokenizer.model here are replaced.
"""

import io
import os
import re
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"       # two processes use two cores better than two threads

import numpy as np
import sentencepiece

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from evaluate import evaluate
from stories import NAMES, miniature, tell

from minillama import Llama, LlamaConfig, save
from minillama.model import random_weights
from minillama.tokenizer import SentencePieceTokenizer
from minillama.train import batch_loss_and_grads, train

RUN = HERE / "run"
# First miniatures, in which a name stands few words before its next mention: there, looking back is learned within two
# minutes; from whole stories it was not, see README.md beside this file. Then stories, at a steady learning rate, and once
# more in another order while it goes down to 1 %. A name in front, at the beginning of a line or a quotation, is spelled in other
# pieces than one behind a space, and too few stories have one for that to be learned: so a stage of such stories alone, and one
# of which half are such. At the end, stories as they come tell the model how many have one.
MINIATURES, STORIES, TO_CHOOSE_FROM, MORE_STORIES = 19_200, 192_000, 320_000, 144_000
NAME_IN_FRONT = f'[\n"]({"|".join(NAMES)})\\b'
STAGES = [
    ("miniatures", dict(batch_size=64, steps=300, peak_learning_rate=4e-3, warmup=50)),
    ("stories", dict(batch_size=32, steps=1_500, peak_learning_rate=8e-3, warmup=100, floor=1.0)),
    ("stories", dict(batch_size=32, steps=6_500, peak_learning_rate=6e-3, warmup=1, seed=1)),
    ("names in front", dict(batch_size=32, steps=2_500, peak_learning_rate=4e-3, warmup=100, floor=0.25, seed=2)),
    ("half of either", dict(batch_size=32, steps=2_500, peak_learning_rate=2e-3, warmup=100, floor=0.5, seed=3)),
    ("more stories", dict(batch_size=32, steps=4_500, peak_learning_rate=2e-3, warmup=100, seed=4)),
]
TOKENIZER_STORIES = 20_000

CONFIG = LlamaConfig(dim=128, n_layers=4, n_heads=8, n_kv_heads=4, head_dim=16, hidden_dim=448, vocab_size=2048,
                     max_seq_len=512, norm_eps=1e-5, theta_base=10000.0, tied=True, bos_id=1, eos_id=2)


def make_tokenizer():
    """Byte pair encoding with byte fallback, learned from stories; text survives a round trip unchanged."""
    path = RUN / "tokenizer.model"
    if not path.exists():
        lines = (line for seed in range(TOKENIZER_STORIES) for line in tell(seed).text.split("\n"))
        model = io.BytesIO()                           # given a file's name, SentencePiece would write that into the model, too
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines, model_writer=model, model_type="bpe", vocab_size=CONFIG.vocab_size,
            byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
            character_coverage=1.0, num_threads=1, minloglevel=2)
        path.write_bytes(model.getvalue())
    return SentencePieceTokenizer(path)


def make_documents(tokenizer, seeds, plot=None, containing=""):
    """Every story that contains the pattern as one document, from begin-of-sequence to end-of-sequence."""
    documents = []
    for first in range(seeds.start, seeds.stop, 1000):
        stop = min(first + 1000, seeds.stop)
        texts = [text for text in (tell(seed, plot).text for seed in range(first, stop)) if re.search(containing, text)]
        documents += [np.array([tokenizer.bos_id, *ids, tokenizer.eos_id], np.uint16) for ids in tokenizer.model.encode(texts)]
        print(f"\r{stop - seeds.start} of {len(seeds)} stories told", end="", flush=True)
    print(f", {len(documents)} taken, {sum(map(len, documents)) / 1e6:.1f} million tokens")
    return documents


def with_helper(helper):
    """`batch_loss_and_grads`, half of it computed by a second process."""
    def loss_and_grads(llama, documents):
        documents = sorted(documents, key=len)
        second = helper.submit(batch_loss_and_grads, llama, documents[1::2])
        loss, grads, tokens = batch_loss_and_grads(llama, documents[::2])
        loss_2, grads_2, tokens_2 = second.result()
        share, share_2 = tokens / (tokens + tokens_2), tokens_2 / (tokens + tokens_2)
        grads = {name: share * grad + share_2 * grads_2[name] for name, grad in grads.items()}
        return share * loss + share_2 * loss_2, grads, tokens + tokens_2
    return loss_and_grads


def main():
    RUN.mkdir(exist_ok=True)
    tokenizer = make_tokenizer()
    llama = Llama(CONFIG, random_weights(CONFIG, seed=0))
    print(f"{sum(weight.size for weight in llama.weights.values())} parameters")
    rest = MINIATURES + STORIES
    documents = {"miniatures": make_documents(tokenizer, range(MINIATURES), miniature()),
                 "stories": make_documents(tokenizer, range(MINIATURES, rest)),
                 "names in front": make_documents(tokenizer, range(rest, rest + TO_CHOOSE_FROM), containing=NAME_IN_FRONT),
                 "more stories": make_documents(tokenizer, range(rest, rest + MORE_STORIES))}
    documents["half of either"] = documents["names in front"][::2] + documents["more stories"][:80_000:2]      # about 40 000 of each
    started = time.perf_counter()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the same command goes on from here"))      # and ends the helper, too
    with ProcessPoolExecutor(1) as helper:
        for number, (name, settings) in enumerate(STAGES, start=1):
            train(llama, documents[name], **settings, checkpoint=RUN / f"stage-{number}.safetensors", save_every=100,
                  report=lambda line: print(line, flush=True), loss_and_grads=with_helper(helper))
    print(f"trained for {(time.perf_counter() - started) / 60:.0f} minutes")
    save(llama, tokenizer, HERE, dtype="BF16")
    evaluate()


if __name__ == "__main__":
    main()
