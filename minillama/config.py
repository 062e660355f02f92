"""The sizes of a Llama, read from the `config.json` that lies beside its weights."""

from dataclasses import dataclass
from reprlib import repr                                     # cuts short what is long or deep, as a damaged file's values may be


@dataclass(frozen=True)
class LlamaConfig:
    """Everything that the weights alone do not tell. Two configurations with equal fields are the same architecture."""

    dim: int                 # width of the residual stream
    n_layers: int            # number of blocks
    n_heads: int             # query heads
    n_kv_heads: int          # key/value heads; each serves n_heads / n_kv_heads query heads
    head_dim: int            # width of one head, even: RoPE turns pairs of numbers
    hidden_dim: int          # width of the feed-forward layer
    vocab_size: int          # number of token ids
    max_seq_len: int         # longest sequence the model was trained for
    norm_eps: float          # added to the mean square inside RMSNorm's root
    theta_base: float        # base of RoPE's wavelengths
    tied: bool               # True: the embedding also serves as lm_head
    bos_id: int | None = None            # begin-of-sequence token
    eos_id: int | list | None = None     # end-of-sequence token, or several of them

    @property
    def group_size(self):
        """How many query heads share one key/value head."""
        return self.n_heads // self.n_kv_heads

    def __post_init__(self):
        for name in ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "vocab_size", "max_seq_len"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {repr(value)}; it must be a whole number of 1 or more")
        for name in ("norm_eps", "theta_base"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 1e-30 < value < 1e30:            # far inside what float32 holds
                raise ValueError(f"{name} is {repr(value)}; it must be a positive number, between 1e-30 and 1e30")
        if type(self.tied) is not bool:
            raise ValueError(f"tied is {repr(self.tied)}; it must be true or false")
        for name, ids in (("bos_id", [self.bos_id]), ("eos_id", self.eos_id if isinstance(self.eos_id, (list, tuple)) else [self.eos_id])):
            if not all(id is None or type(id) is int and 0 <= id < self.vocab_size for id in ids):
                raise ValueError(f"{name} is {repr(getattr(self, name))}; it must be a token id, 0 to {self.vocab_size - 1}, or null")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads is {self.n_heads} and n_kv_heads {self.n_kv_heads}; the first must be a multiple of the second")
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}; it must be even, since RoPE turns pairs of numbers")

    @classmethod
    def from_hugging_face(cls, settings):
        """From the contents of a `config.json` of transformers, version 4 or 5.

        Raises ValueError for a missing key and, by name, for whatever this package does not compute.
        """
        if not isinstance(settings, dict):
            raise ValueError("it must hold one JSON object")
        rope = settings.get("rope_parameters") or {}
        scaling = settings.get("rope_scaling") or {}
        if not isinstance(rope, dict) or not isinstance(scaling, dict):
            raise ValueError("rope_parameters and rope_scaling must be JSON objects")
        scaling_types = [place.get("rope_type", place.get("type", "default")) for place in (scaling, rope)]
        for name, value, supported in (
            ("model_type", settings.get("model_type"), "llama"),
            ("hidden_act", settings.get("hidden_act"), "silu"),
            ("attention_bias", settings.get("attention_bias") or False, False),
            ("mlp_bias", settings.get("mlp_bias") or False, False),
            ("rope_scaling", scaling_types[0], "default"),
            ("rope_scaling", scaling_types[1], "default"),
            ("partial_rotary_factor", rope.get("partial_rotary_factor", settings.get("partial_rotary_factor")) or 1.0, 1.0),
            ("quantization_config", settings.get("quantization_config"), None),
        ):
            if value != supported:
                raise ValueError(f"{name} is {repr(value)}; this package computes only {supported!r}")

        def get(key, *places):
            for place in places or (settings,):
                if place.get(key) is not None:
                    return place[key]
            raise ValueError(f"the key {key!r} is missing")

        dim, n_heads = get("hidden_size"), get("num_attention_heads")
        head_dim = settings.get("head_dim")
        if head_dim is None:
            if type(dim) is not int or type(n_heads) is not int or n_heads < 1 or dim % n_heads:
                raise ValueError(f"hidden_size {repr(dim)} does not divide by num_attention_heads {repr(n_heads)}, and no head_dim is given")
            head_dim = dim // n_heads
        return cls(
            dim=dim,
            n_layers=get("num_hidden_layers"),
            n_heads=n_heads,
            n_kv_heads=get("num_key_value_heads"),
            head_dim=head_dim,
            hidden_dim=get("intermediate_size"),
            vocab_size=get("vocab_size"),
            max_seq_len=get("max_position_embeddings"),
            norm_eps=get("rms_norm_eps"),
            theta_base=get("rope_theta", rope, settings),
            tied=settings.get("tie_word_embeddings", False),
            bos_id=settings.get("bos_token_id"),
            eos_id=settings.get("eos_token_id"),
        )

    def to_hugging_face(self):
        """The contents of a `config.json` that transformers 4 and 5 both read."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": self.dim,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.hidden_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_seq_len,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.theta_base,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.theta_base},
            "tie_word_embeddings": self.tied,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": self.bos_id,
            "eos_token_id": self.eos_id,
        }
