"""What several test files share."""

import numpy as np
import pytest

from minillama.config import LlamaConfig
from minillama.model import Llama, weight_shapes

UNEQUAL = dict(dim=20, n_layers=2, n_heads=8, n_kv_heads=2, head_dim=6, hidden_dim=27, vocab_size=33, max_seq_len=256,
               norm_eps=1e-5, theta_base=10_000.0, tied=False)


@pytest.fixture
def random_llama():
    """`random_llama(seed, dtype, **fields)`: no two sizes equal, no weight special (norms are not 1), logits of order 1."""
    def make(seed=0, dtype=np.float32, **fields):
        config = LlamaConfig(**UNEQUAL | fields)
        rng = np.random.default_rng(seed)
        weights = {}
        for name, shape in weight_shapes(config).items():
            x = rng.standard_normal(shape)
            weights[name] = (1 + 0.3 * x if name.endswith("norm") else x * shape[-1] ** -0.5).astype(dtype)
            weights[name].flags.writeable = False                              # nothing but training may change a weight
        return Llama(config, weights)
    return make


@pytest.fixture
def assert_gradients():
    """Hold gradients against central differences in float64, relative error under 1e-6."""
    def check(forward, inputs, dy, gradients, step=1e-5):
        """gradients: those of `sum(forward(*inputs) · dy)` for each of the inputs."""
        assert len(inputs) == len(gradients)
        for x, gradient in zip(inputs, gradients):
            assert x.dtype == gradient.dtype == np.float64 and x.shape == gradient.shape
            differences = np.empty(x.shape)
            for i in np.ndindex(x.shape):
                middle = x[i]
                x[i] = middle + step
                above = (forward(*inputs) * dy).sum()
                x[i] = middle - step
                below = (forward(*inputs) * dy).sum()
                x[i] = middle
                differences[i] = (above - below) / (2 * step)
            assert np.abs(gradient - differences).max() < 1e-6 * np.abs(differences).max()
    return check
