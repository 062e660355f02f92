"""Training: AdamW, a learning-rate schedule, batches, and the loop, which can stop and go on as if it never had."""

import math
import time
from pathlib import Path

import numpy as np

from .checkpoint import read_header, read_tensor, write_safetensors


class AdamW:
    """Adam with decoupled weight decay, in place. Source: Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2.

    Norms and the embedding are not decayed, by habit.
    """

    def __init__(self, weights, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1):
        self.beta1, self.beta2, self.eps, self.weight_decay = beta1, beta2, eps, weight_decay
        self.steps = 0
        self.m = {name: np.zeros_like(weight) for name, weight in weights.items()}
        self.v = {name: np.zeros_like(weight) for name, weight in weights.items()}

    def step(self, weights, grads, learning_rate):
        """weights ← weights − learning_rate · (m̂ / (sqrt(v̂) + eps) + weight_decay · weights)"""
        self.steps += 1
        m_scale = 1 / (1 - self.beta1 ** self.steps)
        v_scale = 1 / (1 - self.beta2 ** self.steps)
        for name, weight in weights.items():
            grad, m, v = grads[name], self.m[name], self.v[name]
            m += (1 - self.beta1) * (grad - m)
            v += (1 - self.beta2) * (grad * grad - v)
            update = m * m_scale / (np.sqrt(v * v_scale) + self.eps)
            if not name.endswith(("norm", "embedding")):
                update += self.weight_decay * weight
            weight -= learning_rate * update


def learning_rate(step, steps, peak, warmup, floor=0.01):
    """Of step 0 … steps − 1: a straight rise to `peak` in `warmup` steps, then half a cosine down to `floor · peak`; floor 1 stays at the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1, progress))))


def clip_gradients(grads, max_norm):
    """Shrink all gradients together, in place, so that their norm is at most `max_norm`; returns the norm before."""
    norm = math.sqrt(sum(float(np.vdot(grad, grad)) for grad in grads.values()))
    if norm > max_norm:
        for grad in grads.values():
            grad *= max_norm / norm
    return norm


def batch(documents, step, batch_size, seed):
    """The documents of one step: every epoch takes each of them at most once, in an order of its own; a last, smaller batch is left out."""
    per_epoch = len(documents) // batch_size
    if per_epoch == 0:
        raise ValueError(f"{len(documents)} documents do not make one batch of {batch_size}")
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(len(documents))
    return [documents[i] for i in order[place * batch_size:(place + 1) * batch_size]]


def pad(documents):
    """Documents of ids, of several lengths → ids and targets [len(documents), T]; targets are −1 behind a document's end."""
    T = max(len(document) for document in documents) - 1
    ids, targets = np.zeros((len(documents), T), np.int64), np.full((len(documents), T), -1)
    for row, document in enumerate(documents):
        ids[row, :len(document) - 1], targets[row, :len(document) - 1] = document[:-1], document[1:]
    return ids, targets


def batch_loss_and_grads(llama, documents, micro_batch=4):
    """Mean loss per token over the documents, its gradients, and the number of tokens.

    The documents go through the model a few at a time, those of like length together: what a block
    computes then stays in the processor's cache, and little is spent on padding.
    """
    documents = sorted(documents, key=len)
    tokens = sum(len(document) - 1 for document in documents)
    total, grads = 0.0, None
    for start in range(0, len(documents), micro_batch):
        loss, more = llama.loss_and_grads(*pad(documents[start:start + micro_batch]))
        total += loss
        if grads is None:
            grads = more
        else:
            for name, grad in grads.items():
                grad += more[name]
    for grad in grads.values():
        grad /= tokens
    return total / tokens, grads, tokens


def train(llama, documents, *, steps, batch_size=32, peak_learning_rate=1e-3, warmup=100, floor=0.01,
          weight_decay=0.1, max_norm=1.0, seed=0, checkpoint=None, save_every=500, report=print, report_every=100,
          loss_and_grads=batch_loss_and_grads):
    """Train a Llama in place on documents, lists of ids that each begin a context of their own; returns the losses.

    With `checkpoint`, the path of a file, the whole state is written there every `save_every` steps and
    at the end; if it exists, training goes on from it and gives what one run without a stop gives, bit for bit.
    `report` is called with a line of progress every `report_every` steps. `loss_and_grads` may spread
    what `batch_loss_and_grads` does over several processors.
    """
    too_long = max(map(len, documents)) - 1
    if too_long > llama.config.max_seq_len:
        raise ValueError(f"a document has {too_long} tokens to learn from, the model's context is {llama.config.max_seq_len}")
    optimizer = AdamW(llama.weights, weight_decay=weight_decay)
    losses = []
    if checkpoint is not None and Path(checkpoint).exists():
        losses = resume(checkpoint, llama, optimizer)
        report(f"going on after step {len(losses)}")
    since, tokens = time.perf_counter(), 0
    for step in range(len(losses), steps):
        loss, grads, n = loss_and_grads(llama, batch(documents, step, batch_size, seed))
        clip_gradients(grads, max_norm)
        optimizer.step(llama.weights, grads, learning_rate(step, steps, peak_learning_rate, warmup, floor))
        losses.append(loss)
        tokens += n
        if (step + 1) % report_every == 0 or step + 1 == steps:
            now = time.perf_counter()
            recent = losses[-report_every:]
            report(f"step {step + 1:6d} of {steps}   loss {sum(recent) / len(recent):.4f}   {tokens / (now - since):6.0f} tokens/s")
            since, tokens = now, 0
        if checkpoint is not None and ((step + 1) % save_every == 0 or step + 1 == steps):
            save_state(checkpoint, llama, optimizer, losses)
    return losses


def save_state(path, llama, optimizer, losses):
    """All that `resume` needs, in one file: weights, both moments, and the losses so far."""
    state = {f"{kind}.{name}": x for kind, tensors in (("weights", llama.weights), ("m", optimizer.m), ("v", optimizer.v))
             for name, x in tensors.items()}
    write_safetensors(path, state | {"losses": np.array(losses, np.float64).view(np.float32)})


def resume(path, llama, optimizer):
    """Set the weights and the optimizer to a saved state; returns the losses until then. ValueError if it is of another model."""
    places = read_header(Path(path))
    arrays = {f"{kind}.{name}": x for kind, tensors in (("weights", llama.weights), ("m", optimizer.m), ("v", optimizer.v))
              for name, x in tensors.items()}
    wrong = [f"{name} is {list(places[name][2]) if name in places else 'missing'}, expected {list(x.shape)}"
             for name, x in arrays.items() if name not in places or places[name][2] != x.shape]
    wrong += [f"{name!r} is unexpected" for name in places.keys() - arrays.keys() - {"losses"}]
    if wrong or "losses" not in places:
        raise ValueError(f"{path}: the state of another model, or none: {'; '.join(wrong[:5]) or 'losses are missing'}; "
                         "give it another path or delete it")
    losses = read_tensor(*places["losses"]).view(np.float64).tolist()
    for name, x in arrays.items():                                             # all is checked: now nothing is changed by half
        x[...] = read_tensor(*places[name])
    optimizer.steps = len(losses)
    return losses
