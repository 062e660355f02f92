import json
import re
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from minillama.config import LlamaConfig

GOLDEN = Path(__file__).parent / "golden"
CONFIG = LlamaConfig(dim=40, n_layers=3, n_heads=8, n_kv_heads=2, head_dim=6, hidden_dim=51, vocab_size=77, max_seq_len=128,
                     norm_eps=1e-6, theta_base=500_000.0, tied=True, bos_id=5, eos_id=7)
VERSION_5 = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 40, "num_hidden_layers": 3,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 6, "intermediate_size": 51, "vocab_size": 77,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
    "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "bos_token_id": 5, "eos_token_id": 7,
}
VERSION_4 = {key: value for key, value in VERSION_5.items() if key != "rope_parameters"} | {"rope_theta": 500_000.0, "rope_scaling": None}


def without(settings, *keys):
    return {key: value for key, value in settings.items() if key not in keys}


def refused(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LlamaConfig.from_hugging_face(settings)


# what is read

@pytest.mark.parametrize("settings", [VERSION_5, VERSION_4], ids=["version 5", "version 4"])
def test_every_field_comes_from_its_key(settings):
    assert LlamaConfig.from_hugging_face(settings) == CONFIG


def test_what_transformers_wrote_is_read():
    config = LlamaConfig.from_hugging_face(json.loads((GOLDEN / "heads_9_3_bf16" / "config.json").read_text()))
    assert config == LlamaConfig(dim=36, n_layers=2, n_heads=9, n_kv_heads=3, head_dim=4, hidden_dim=21, vocab_size=41, max_seq_len=128,
                                 norm_eps=1e-6, theta_base=10_000.0, tied=False, bos_id=1, eos_id=2)


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_written_is_read_back(tied):
    config = replace(CONFIG, tied=tied, bos_id=None)
    settings = json.loads(json.dumps(config.to_hugging_face()))
    assert LlamaConfig.from_hugging_face(settings) == config
    assert settings["rope_theta"] == settings["rope_parameters"]["rope_theta"] == 500_000.0          # version 4 and version 5


@pytest.mark.parametrize("settings", [without(VERSION_5, "head_dim"), VERSION_5 | {"head_dim": None}])
def test_head_dim_is_derived_where_it_is_not_given(settings):
    assert LlamaConfig.from_hugging_face(settings | {"hidden_size": 80}).head_dim == 10


def test_what_older_files_leave_out_has_the_value_of_its_time():
    old = without(VERSION_4, "tie_word_embeddings", "attention_bias", "mlp_bias", "rope_scaling", "bos_token_id", "eos_token_id")
    assert LlamaConfig.from_hugging_face(old) == replace(CONFIG, tied=False, bos_id=None, eos_id=None)


def test_whole_numbers_serve_as_theta_base_and_eps():
    assert LlamaConfig.from_hugging_face(VERSION_4 | {"rope_theta": 10_000}).theta_base == 10_000


def test_group_size_is_the_number_of_query_heads_for_each_key_value_head():
    assert CONFIG.group_size == 4


def test_a_configuration_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        CONFIG.dim = 41


# what is refused

REQUIRED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size",
            "max_position_embeddings", "rms_norm_eps")


@pytest.mark.parametrize("missing", [lambda settings, key: without(settings, key), lambda settings, key: settings | {key: None}],
                         ids=["absent", "null"])
@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(key, missing):
    refused(missing(VERSION_5, key), f"the key {key!r} is missing")


def test_a_missing_theta_base_is_named():
    refused(without(VERSION_4, "rope_theta"), "the key 'rope_theta' is missing")
    refused(VERSION_5 | {"rope_parameters": {"rope_type": "default"}}, "the key 'rope_theta' is missing")


@pytest.mark.parametrize("settings, message", [
    (VERSION_5 | {"model_type": "mistral"}, "model_type is 'mistral'; this package computes only 'llama'"),
    (without(VERSION_5, "model_type"), "model_type is None; this package computes only 'llama'"),
    (VERSION_5 | {"hidden_act": "gelu"}, "hidden_act is 'gelu'; this package computes only 'silu'"),
    (without(VERSION_5, "hidden_act"), "hidden_act is None; this package computes only 'silu'"),
    (VERSION_5 | {"attention_bias": True}, "attention_bias is True; this package computes only False"),
    (VERSION_5 | {"mlp_bias": True}, "mlp_bias is True; this package computes only False"),
    (VERSION_5 | {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; this package computes only 1.0"),
    (VERSION_5 | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}},
     "partial_rotary_factor is 0.25; this package computes only 1.0"),
    (VERSION_5 | {"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}; this package computes only None"),
])
def test_what_is_not_computed_is_refused_by_name(settings, message):
    refused(settings, message)


@pytest.mark.parametrize("rope_type", ["linear", "dynamic", "yarn", "longrope", "llama3", "of tomorrow"])
@pytest.mark.parametrize("change", [
    lambda rope_type: {"rope_scaling": {"type": rope_type, "factor": 2.0}},                          # as long ago
    lambda rope_type: {"rope_scaling": {"rope_type": rope_type, "factor": 2.0}},                     # version 4
    lambda rope_type: {"rope_parameters": {"rope_type": rope_type, "factor": 2.0, "rope_theta": 1e4}},       # version 5
    lambda rope_type: {"rope_parameters": {"type": rope_type, "factor": 2.0, "rope_theta": 1e4}},            # which it reads as well
    lambda rope_type: {"rope_scaling": {"rope_type": "default"}, "rope_parameters": {"rope_type": rope_type, "rope_theta": 1e4}},
], ids=["type", "rope_type", "rope_parameters", "type in rope_parameters", "both"])
def test_every_rope_scaling_is_refused_by_name(change, rope_type):
    for settings in (VERSION_4, VERSION_5):
        refused(settings | change(rope_type), f"rope_scaling is {rope_type!r}; this package computes only 'default'")


def test_rope_settings_of_a_wrong_kind_are_refused():
    for key in ("rope_scaling", "rope_parameters"):
        refused(VERSION_4 | {key: "linear"}, "rope_parameters and rope_scaling must be JSON objects")


@pytest.mark.parametrize("settings", [None, [], "llama", 5])
def test_what_is_no_object_is_refused(settings):
    refused(settings, "it must hold one JSON object")


@pytest.mark.parametrize("hidden_size, n_heads", [(41, 8), (40, 0), ("40", 8), (40, 8.0)])
def test_a_head_dim_that_cannot_be_derived_is_refused(hidden_size, n_heads):
    refused(without(VERSION_5, "head_dim") | {"hidden_size": hidden_size, "num_attention_heads": n_heads},
            f"hidden_size {hidden_size!r} does not divide by num_attention_heads {n_heads!r}, and no head_dim is given")


@pytest.mark.parametrize("value", [0, -1, 2.0, "2", True, None, [2]])
@pytest.mark.parametrize("name", ["dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "vocab_size", "max_seq_len"])
def test_a_size_that_is_no_positive_whole_number_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{re.escape(f'{name} is {value!r}; it must be a whole number of 1 or more')}$"):
        replace(CONFIG, **{name: value})


@pytest.mark.parametrize("value", [0, -1e-5, 1e-31, 1e31, float("inf"), float("nan"), "1e-5", True, None])
@pytest.mark.parametrize("name", ["norm_eps", "theta_base"])
def test_an_eps_or_a_base_that_is_no_positive_number_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} is {re.escape(repr(value))}; it must be a positive number, between 1e-30 and 1e30$"):
        replace(CONFIG, **{name: value})


@pytest.mark.parametrize("value", [1, "true", None])
def test_tied_is_true_or_false(value):
    with pytest.raises(ValueError, match=f"^tied is {value!r}; it must be true or false$"):
        replace(CONFIG, tied=value)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="^n_heads is 8 and n_kv_heads 3; the first must be a multiple of the second$"):
        replace(CONFIG, n_kv_heads=3)
    with pytest.raises(ValueError, match="^n_heads is 2 and n_kv_heads 8; the first must be a multiple of the second$"):
        replace(CONFIG, n_heads=2, n_kv_heads=8)


def test_an_odd_head_dim_is_refused():
    with pytest.raises(ValueError, match="^head_dim is 5; it must be even, since RoPE turns pairs of numbers$"):
        replace(CONFIG, head_dim=5)
