"""Makes small weights folders with their own code, of model types that no transformers version has.

`write(folder, name)` writes the files of a folder; `run_remote.py`, which has transformers, makes the weights.
"""

from __future__ import annotations

import json
from pathlib import Path

CONFIGURATION = '''
from transformers.configuration_utils import PretrainedConfig


class TinyConfig(PretrainedConfig):
    model_type = "fa3_tiny"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(self, vocab_size=99, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, max_position_embeddings=64, **kwargs):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.max_position_embeddings = max_position_embeddings
        super().__init__(**kwargs)
'''  # fmt: skip

HEAD = '''
"""A tiny decoder."""
import math

import torch
from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
CONFIG_IMPORT

EXTRA_IMPORT

def repeat_kv(states, times):
    return states.repeat_interleave(times, dim=1)


class TinyAttention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.config, self.layer = config, layer
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.size = config.hidden_size // self.heads
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.size)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.size)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.size)
        self.o_proj = nn.Linear(self.heads * self.size, config.hidden_size)

    def forward(self, x, past_key_value=None):
        q = self.q_proj(x).view(*x.shape[:2], -1, self.size).transpose(1, 2)
        k = self.k_proj(x).view(*x.shape[:2], -1, self.size).transpose(1, 2)
        v = self.v_proj(x).view(*x.shape[:2], -1, self.size).transpose(1, 2)
'''

UPDATE = """        if past_key_value is not None:
            k, v = past_key_value.update(k, v, self.layer)
        present = past_key_value
"""

TUPLES = """        if past_key_value is not None and len(past_key_value) > self.layer:
            k = torch.cat((past_key_value[self.layer][0], k), dim=2)
            v = torch.cat((past_key_value[self.layer][1], v), dim=2)
        present = (k, v)
"""

CORE = """        wide, tall = repeat_kv(k, self.heads // self.kv_heads), repeat_kv(v, self.heads // self.kv_heads)
        scores = torch.matmul(q, wide.transpose(2, 3)) / math.sqrt(self.size)
        length, total = scores.shape[-2:]
        ahead = torch.ones(length, total, dtype=torch.bool, device=x.device).triu(total - length + 1)
        weights = nn.functional.softmax(scores.masked_fill(ahead, float("-inf")), dim=-1)
        out = torch.matmul(weights, tall).transpose(1, 2).reshape(*x.shape[:2], -1)
        return self.o_proj(out), present
"""

MODEL = """

class TinyPreTrainedModel(PreTrainedModel):
    config_class = TinyConfig
    base_model_prefix = "model"
    _no_split_modules = ["TinyLayer"]
    _supports_cache_class = True

    def _init_weights(self, module):
        pass


class TinyLayer(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.attention = TinyAttention(config, layer)
        self.mlp = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x, past):
        out, present = self.attention(x, past)
        x = x + out
        return x + torch.tanh(self.mlp(x)), present


class TinyModel(TinyPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([TinyLayer(config, layer) for layer in range(config.num_hidden_layers)])
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids, past, **kwargs):
        x, presents = self.embed(input_ids), []
        for layer in self.layers:
            x, present = layer(x, past)
            presents.append(present)
        return x, presents


class TinyForCausalLM(TinyPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = TinyModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, use_cache=None, **kwargs):
        START
        x, presents = self.model(input_ids, past_key_values if use_cache else None)
        return CausalLMOutputWithPast(logits=self.lm_head(x), past_key_values=FINISH)
"""

NEW_CACHE = {
    "EXTRA_IMPORT": "from transformers.cache_utils import DynamicCache\n",
    "START": "past_key_values = DynamicCache() if past_key_values is None else past_key_values",
    "FINISH": "past_key_values if use_cache else None",
}
OLD_CACHE = {
    "EXTRA_IMPORT": "",
    "START": "past_key_values = past_key_values or ()",
    "FINISH": "tuple(presents) if use_cache else None",
}
BESIDE = "from .configuration_tiny import TinyConfig"


def _file(attention: str, cache: dict[str, str], config: str = BESIDE) -> str:
    text = HEAD + attention + CORE + MODEL
    for name, words in {**cache, "CONFIG_IMPORT": config}.items():
        text = text.replace(name, words)
    return text.lstrip()


def _split(text: str) -> dict[str, str]:
    """The same model with its helper and its base class in separate files."""
    helper = text[text.index("def repeat_kv") : text.index("class TinyAttention")]
    return {
        "modeling_tiny.py": text.replace(helper, "").replace(
            BESIDE, f"{BESIDE}\nfrom .helpers_tiny import repeat_kv\nfrom .scales_tiny import ONE"
        ),
        "helpers_tiny.py": "from .scales_tiny import ONE\n\n\n"
        + helper.replace("interleave(times", "interleave(times * ONE"),
        "scales_tiny.py": "ONE = 1\n",
    }


# name -> the files of its folder
SAMPLES = {
    "if_update": {"modeling_tiny.py": _file(UPDATE, NEW_CACHE)},
    "tuple_cache": {"modeling_tiny.py": _file(TUPLES, OLD_CACHE)},
    "helpers": _split(_file(UPDATE, NEW_CACHE)),
    "absent_package": {
        "modeling_tiny.py": _file(UPDATE, NEW_CACHE)
        .replace("\n\ndef repeat_kv", "\n\nif torch.cuda.is_available():\n    from surely_not_installed import fast\n\n\ndef repeat_kv", 1)
        .replace("        START", "        if attention_mask == 'never':\n            import surely_not_installed as absent\n        START")
    },
}  # fmt: skip

CONFIG = {
    "architectures": ["TinyForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_tiny.TinyConfig",
        "AutoModelForCausalLM": "modeling_tiny.TinyForCausalLM",
        "AutoTokenizer": ["tokenization_tiny.Tiny", None],
    },
    "model_type": "fa3_tiny",
    "tie_word_embeddings": False,
    "vocab_size": 99,
}


def write(folder: Path, name: str) -> Path:
    """Write the files of a sample, without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in {"configuration_tiny.py": CONFIGURATION.lstrip(), **SAMPLES[name]}.items():
        (folder / file).write_text(text)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    return folder
