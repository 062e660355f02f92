"""How fast minillama is, beside PyTorch with transformers where they can be imported.

    python tests/benchmark.py [--quick] [--only decode|prefill|train|startup]

Prints one Markdown table of medians, with one thread and with two. Run it on a machine that does nothing else: BLAS threads
that wait for a processor make everything several times slower. All contenders take turns in one process (A B C A B C …).
Before a turn the machine rests 50 ms, since threads of OpenBLAS and OpenMP go on spinning after their work; a turn begins
with an untimed call. Weights are random, float32, and the same for all; first their logits are compared.

decode   one token at a time behind a prompt of 8. The peer: eager attention, DynamicCache. Bytes of weights per token ÷ time
         is shown as a share of what one BLAS matrix-vector product reads per second, from an array of as many bytes as the
         weights have, and from 1 GiB, which no cache holds.
prefill  a prompt of 256 into an empty cache, with the logits of the last position or of all. The peer: SDPA attention.
train    forward, backward and AdamW on 32 × 256 tokens; with two threads also as data/train.py does it, in two processes
         of one BLAS thread each. The peer: SDPA attention, the batch in one piece.
startup  a new process, from `python` to the first token, less one that only imports NumPy. The peer: without a tokenizer.
"""

import argparse
import io
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "data")]

import minillama as ml
from minillama.attention import KVCache
from minillama.checkpoint import hugging_face_name, read_config
from minillama.model import random_weights
from minillama.tokenizer import SentencePieceTokenizer
from minillama.train import AdamW, batch_loss_and_grads

try:
    import torch
    import transformers
except ImportError:
    torch = None

PROMPT, NEW_TOKENS, LONG, BATCH = 8, 32, 256, 32
HEADER = ("measure", "shape", "threads", "minillama", "transformers", "times as fast", "weights read", "of such a read", "of 1 GiB's read")
BLAS_LIMITS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


COMMON = {"max_seq_len": 512, "norm_eps": 1e-5, "theta_base": 10000.0, "tied": True, "bos_id": 1, "eos_id": 2}
SHAPES = {                        # dim, n_layers, n_heads, n_kv_heads, head_dim, hidden_dim, vocab_size
    "shipped": ml.LlamaConfig(128, 4, 8, 4, 16, 448, 2048, **COMMON),
    "stories15M": ml.LlamaConfig(288, 6, 6, 6, 48, 768, 32000, **COMMON),
    "SmolLM2-135M": ml.LlamaConfig(576, 30, 9, 3, 64, 1536, 49152, **COMMON),
}
if (ROOT / "data" / "config.json").is_file():
    SHAPES["shipped"] = read_config(ROOT / "data")


def models(config, attention):
    """A Llama with random weights, and the same in transformers, or None."""
    llama = ml.Llama(config, random_weights(config, seed=0))
    if torch is None:
        return llama, None
    peer = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config.to_hugging_face(), attn_implementation=attention))
    peer.load_state_dict({hugging_face_name(name): torch.from_numpy(weight) for name, weight in llama.weights.items()}, strict=False)
    ids = np.arange(20) * 37 % config.vocab_size
    with torch.inference_mode():
        difference = np.abs(peer(torch.from_numpy(ids)[None]).logits[0].numpy() - llama(ids)).max()
    assert difference < 1e-4, f"the two do not compute the same: logits differ by {difference}"
    return llama, peer


def timed(function, calls=1):
    """A turn: one call untimed, then the mean seconds of some."""
    def turn():
        function()
        started = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - started) / calls
    return turn


def interleaved(rounds, **turns):
    """The median of each contender, a function that takes a turn and returns its seconds. {name: seconds}"""
    seconds = {name: [] for name in turns if name != "theirs" or torch}
    for _ in range(rounds):
        for name, times in seconds.items():
            time.sleep(0.05)
            times.append(turns[name]())
    return {name: median(times) for name, times in seconds.items()}


def rates(result, tokens):
    """Medians → tokens/s of both, and the ratio."""
    ours, theirs = (f"{tokens / result[name]:,.0f} tokens/s" if name in result else "not installed" for name in ("ours", "theirs"))
    return ours, theirs, f"{result['theirs'] / result['ours']:.2f}" if "theirs" in result else ""


def decode(config, rounds):
    llama, peer = models(config, "eager")
    n_bytes = sum(weight.nbytes for name, weight in llama.weights.items() if config.tied or name != "embedding")
    memory, vector = np.ones((2 ** 18, 1024), np.float32), np.ones(1024, np.float32)
    part = memory[:-(-n_bytes // memory[0].nbytes)]

    def ours():
        cache = KVCache(config, PROMPT + 1 + NEW_TOKENS)
        llama(range(PROMPT), cache, last=True)
        return timed(lambda: llama([5], cache, last=True), NEW_TOKENS)()

    def theirs():
        with torch.inference_mode():
            cache, token = transformers.DynamicCache(config=peer.config), torch.tensor([[5]])
            peer(torch.arange(PROMPT)[None], past_key_values=cache, logits_to_keep=1)
            return timed(lambda: peer(token, past_key_values=cache), NEW_TOKENS)()

    result = interleaved(rounds, ours=ours, theirs=theirs, part=timed(lambda: part @ vector, 5), memory=timed(lambda: memory @ vector))
    speed = n_bytes / result["ours"]
    shares = (f"{speed * result[name] / array.nbytes:.0%}" for name, array in (("part", part), ("memory", memory)))
    yield "decode", *rates(result, 1), f"{speed / 1e9:.1f} GB/s", *shares


def prefill(config, rounds):
    llama, peer = models(config, "sdpa")
    ids = np.arange(LONG) * 37 % config.vocab_size
    for label, last in (("last", True), ("all", False)):
        def theirs():
            with torch.inference_mode():
                cache = transformers.DynamicCache(config=peer.config)
                peer(torch.from_numpy(ids)[None], past_key_values=cache, logits_to_keep=int(last))

        result = interleaved(rounds, ours=timed(lambda: llama(ids, KVCache(config, LONG), last=last)), theirs=timed(theirs))
        yield f"prefill, logits of {label}", *rates(result, LONG)


def train(config, rounds, loss_and_grads=batch_loss_and_grads, label="training step"):
    llama, peer = models(config, "sdpa")
    documents = np.random.default_rng(0).integers(0, config.vocab_size, (BATCH, LONG + 1))
    optimizer, their_optimizer = AdamW(llama.weights), peer and torch.optim.AdamW(peer.parameters(), 1e-4)

    def ours():
        _, grads, _ = loss_and_grads(llama, list(documents))
        optimizer.step(llama.weights, grads, 1e-4)

    def theirs():
        batch = torch.from_numpy(documents)
        their_optimizer.zero_grad()
        logits = peer(batch[:, :-1], use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
        their_optimizer.step()

    yield label, *rates(interleaved(rounds, ours=timed(ours), theirs=timed(theirs)), BATCH * LONG)


def train_in_two_processes(config, rounds):
    from train import with_helper                                              # data/train.py

    with ProcessPoolExecutor(1) as helper:
        yield from train(config, rounds, with_helper(helper), "training step, two processes")


def startup(config, rounds):
    from sentencepiece import SentencePieceTrainer

    rng, pieces = random.Random(0), io.BytesIO()                               # a tokenizer of made-up words
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 8))) for _ in range(20_000)]
    SentencePieceTrainer.train(sentence_iterator=(" ".join(words[i:i + 50]) for i in range(0, len(words), 50)), model_writer=pieces,
                               model_type="bpe", vocab_size=config.vocab_size, byte_fallback=True, minloglevel=2)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ours = "import sys, minillama as ml; next(ml.stream(*ml.load(sys.argv[1]), 'Once upon a time', temperature=0))"
    theirs = ("import sys, torch, transformers; model = transformers.LlamaForCausalLM.from_pretrained(sys.argv[1])\n"
              "with torch.inference_mode(): model(torch.arange(1, 9)[None], logits_to_keep=1).logits.argmax()")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.model").write_bytes(pieces.getvalue())
        ml.save(ml.Llama(config, random_weights(config, seed=0)), SentencePieceTokenizer(Path(folder) / "tokenizer.model"), folder)

        def process(code):
            return timed(lambda: subprocess.run([sys.executable, "-c", code, folder], check=True, capture_output=True, env=environment))

        result = interleaved(rounds, numpy=process("import numpy"), ours=process(ours), theirs=process(theirs))
    numpy = result.pop("numpy")
    beyond = {name: seconds - numpy for name, seconds in result.items()}
    cells = (f"{1000 * beyond[name]:,.0f} ms" if name in beyond else "not installed" for name in ("ours", "theirs"))
    yield f"start-up beyond NumPy's {1000 * numpy:.0f} ms", *cells, rates(beyond, 1)[2]


def machine():
    info = Path("/proc/cpuinfo")
    names = [line.split(": ")[1] for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    peers = f"PyTorch {torch.__version__}, transformers {transformers.__version__}" if torch else "no PyTorch with transformers"
    return (f"{(names or [platform.processor()])[0]}, {os.cpu_count()} cores, Python {platform.python_version()}, "
            f"NumPy {np.__version__} with {blas['name']} {blas['version']}, {peers}")


def row(*cells):
    print("| " + " | ".join([*cells, *[""] * len(HEADER)][:len(HEADER)]) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds instead of nine")
    parser.add_argument("--only", choices=("decode", "prefill", "train", "startup"))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)          # this process measures: what, and on how many threads
    arguments = parser.parse_args()
    if arguments.measure:
        what, threads = arguments.measure
        if torch:
            torch.set_num_threads(int(threads))
        for name in ["stories15M"] if what == "startup" else ["shipped"] if what.startswith("train") else SHAPES:
            for label, *cells in globals()[what](SHAPES[name], 3 if arguments.quick else 9):
                row(label, name, threads, *cells)
        return
    print(machine() + "\n", flush=True)
    row(*HEADER)
    row(*["---"] * len(HEADER))
    runs = [(what, threads, threads) for what in ("decode", "prefill", "train", "startup") for threads in "12"]
    for what, threads, blas_threads in [*runs, ("train_in_two_processes", "2", "1")]:
        if arguments.only is None or what.startswith(arguments.only):          # a new process: BLAS takes its limit when NumPy is imported
            limits = dict.fromkeys(BLAS_LIMITS, blas_threads)
            subprocess.run([sys.executable, *sys.argv, "--measure", what, threads], check=True, env=os.environ | limits)


if __name__ == "__main__":
    main()
