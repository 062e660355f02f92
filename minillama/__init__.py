"""minillama: a Llama in NumPy, small enough to read in one sitting."""

from .checkpoint import load, save
from .config import LlamaConfig
from .model import Llama
from .sample import generate, stream

__all__ = ["Llama", "LlamaConfig", "generate", "load", "save", "stream"]
