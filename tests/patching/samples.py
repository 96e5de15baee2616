"""Provides one small attention class per family, as a complete modeling file; `# HERE` marks the expected site."""

from __future__ import annotations

import textwrap

HEAD = """
import torch
from torch import nn
from ...modeling_utils import PreTrainedModel


class Attention(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        self.config = config

    def forward(self, x, mask, past=None, positions=None):
"""

CACHE = """
shape = (*x.shape[:-1], -1, self.head_dim)
a = self.q_proj(x).view(shape).transpose(1, 2)
b = self.k_proj(x).view(shape).transpose(1, 2)
c = self.v_proj(x).view(shape).transpose(1, 2)
a, b = rotate(a, b, *positions)
if past is not None:
    b, c = past.update(b, c, self.layer_idx)
"""

INTERFACE = (
    CACHE
    + """# HERE a b c
attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
out, weights = attend(self, a, b, c, mask, scaling=self.scaling)
return self.o_proj(out.reshape(*x.shape[:-1], -1)), weights
"""
)

INLINE = (
    CACHE
    + """# HERE a b c
b = repeat_kv(b, self.groups)
c = repeat_kv(c, self.groups)
scores = torch.matmul(a, b.transpose(2, 3)) / 8 + mask[:, :, :, : b.shape[-2]]
weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(a.dtype)
out = torch.matmul(weights, c)
return self.o_proj(out.transpose(1, 2).reshape(x.shape))
"""
)

FLASH = (
    CACHE
    + """# HERE a b c
b = repeat_kv(b, self.groups)
c = repeat_kv(c, self.groups)
if a.dtype == torch.float32:
    a, b, c = a.to(torch.float16), b.to(torch.float16), c.to(torch.float16)
a = a.transpose(1, 2)
b = b.transpose(1, 2)
c = c.transpose(1, 2)
return self.o_proj(_flash_attention_forward(a, b, c, mask, x.shape[1]))
"""
)

SDPA = (
    CACHE
    + """# HERE a b c
if a.device.type == "cuda":
    a, b, c = a.contiguous(), b.contiguous(), c.contiguous()
wide, tall = repeat_kv(b, 2), repeat_kv(c, 2)
return self.o_proj(torch.nn.functional.scaled_dot_product_attention(a, wide, tall, attn_mask=mask))
"""
)

# The returned tuple contains the original states.
TUPLE_CACHE = """
a, b, c = self._split(self.qkv(x))
a, b = rotate(a, b, *positions)
if past is not None:
    b = torch.cat((past[0], b), dim=-2)
    c = torch.cat((past[1], c), dim=-2)
present = (b, c)
# HERE a b c
scores = torch.softmax(a @ b.transpose(-1, -2), dim=-1)
return scores @ c, present
"""

# Latents are cached; keys and values are computed from them afterwards.
LATENT = """
a = torch.cat(self.q(x), dim=-1)
low, rot = self.down(x)
if past is not None:
    low, rot = past.update(low, rot, self.layer_idx)
b, c = self.up_proj(low, rot)
# HERE a b c
out, _ = eager_attention_forward(self, a, b, c, mask)
return out
"""

SCALED_AFTER = (
    CACHE
    + """a = a * self.temperature
# HERE a b c
out, _ = eager_attention_forward(self, a, b, c, mask)
return out
"""
)

# The values feed a mask too, which must not see them quantized.
SECOND_READER = (
    CACHE
    + """extra = self.gate(c.transpose(1, 2))
# HERE a b c
out, _ = eager_attention_forward(self, query=a, key=b, value=c, attention_mask=mask + extra)
return out
"""
)

BRANCHES = (
    CACHE
    + """# HERE a b c
if self.fast:
    out = nn.functional.scaled_dot_product_attention(a, b, c)
else:
    scores = a @ b.transpose(-1, -2)
    scores = nn.Softmax(dim=-1)(scores)
    out = scores @ c
return out
"""
)

FLAT_PRODUCTS = (
    CACHE
    + """# HERE a b c
flat_a = a.reshape(-1, x.shape[1], self.head_dim)
flat_b = b.reshape(-1, x.shape[1], self.head_dim).transpose(-1, -2)
flat_c = c.reshape(-1, x.shape[1], self.head_dim)
scores = mask.baddbmm(batch1=flat_a, batch2=flat_b, beta=1.0)
weights = nn.functional.softmax(scores.view(2, -1, 7, 7), dim=-1).view(-1, 7, 7)
return torch.bmm(weights, flat_c)
"""
)

# Batch and heads are one axis in the cache already.
FLAT_CACHE = """
a, b, c = self._split(self.qkv(x))
a = a.transpose(1, 2).reshape(batch * self.num_heads, length, self.head_dim)
b = b.permute(0, 2, 3, 1).reshape(batch * self.num_heads, self.head_dim, length)
c = c.transpose(1, 2).reshape(batch * self.num_heads, length, self.head_dim)
if past is not None:
    b = torch.cat((past[0], b), dim=2)
    c = torch.cat((past[1], c), dim=1)
present = (b, c)
# HERE a b c
scores = mask.baddbmm(batch1=a, batch2=b, beta=1.0)
return torch.bmm(scores.softmax(dim=-1), c), present
"""

# The query has an axis of heads only one line later.
LATE_HEADS = """
a = self.q_proj(x) * self.scaling
b, c = past.update(self._shape(self.k(x)), self._shape(self.v(x)), self.layer_idx)
a = a.view(batch, length, self.num_heads, self.head_dim).transpose(1, 2)
# HERE a b c
a = a.reshape(*flat)
b = b.reshape(*flat)
c = c.reshape(*flat)
return torch.bmm(torch.bmm(a, b.transpose(1, 2)).softmax(dim=-1), c)
"""

# For flash attention positions are before heads, and stay there.
FLASH_QUERY = """
a = rotate(self.q_proj(x).view(batch, length, -1, self.head_dim))
b, c = past.update(self._shape(self.k(x)), self._shape(self.v(x)), self.layer_idx)
# HERE a b c
b = repeat_kv(b, self.groups)
c = repeat_kv(c, self.groups)
return flash_attn_func(a, b.transpose(1, 2), c.transpose(1, 2))
"""

RIGHT = {
    "interface": INTERFACE,
    "inline": INLINE,
    "flash": FLASH,
    "sdpa": SDPA,
    "tuple_cache": TUPLE_CACHE,
    "latent": LATENT,
    "scaled_after": SCALED_AFTER,
    "second_reader": SECOND_READER,
    "branches": BRANCHES,
    "flat_products": FLAT_PRODUCTS,
    "flat_cache": FLAT_CACHE,
    "late_heads": LATE_HEADS,
    "flash_query": FLASH_QUERY,
}

# body, and a part of the reason
REFUSED = {
    "one_tensor": (CACHE + "out = eager_attention_forward(self, a, b, b, mask)\nreturn out", "one tensor"),
    "returned_after": (CACHE + "out = eager_attention_forward(self, a, b, c)\nreturn out, (b, c)", "outside attention"),
    "loop": (CACHE + "for part in mask:\n    out = eager_attention_forward(self, a, b, c, part)\nreturn out", "loop"),
    "branch_changes": (
        CACHE + "if self.fast:\n    a = a * 2\n    out = eager_attention_forward(self, a, b, c)\nelse:\n"
        "    out = eager_attention_forward(self, a, b, c)\nreturn out",
        "changed inside a branch",
    ),
    "expanded_first": (
        CACHE + "c = repeat_kv(c, 2)\nc = torch.cat(torch.chunk(c, 2, dim=1), dim=-1)\n"
        "out = eager_attention_forward(self, a, b, c)\nreturn out",
        "repeated before",
    ),
    "between_calls": (
        CACHE + "out = eager_attention_forward(self, a, b, c)\nc = c * 2\n"
        "return out + eager_attention_forward(self, a, b, c)",
        "between two attention calls",
    ),
    "transposed_key": (
        CACHE + "b = rotate(b).transpose(2, 3)\na = a * 2\nreturn torch.softmax(a @ b, dim=-1) @ c",
        "laid out BHDS",
    ),
    "three_dimensions": (
        "a, b, c = split(x)\nreturn torch.bmm(torch.softmax(torch.bmm(a, b.transpose(1, 2)), -1), c)",
        "laid out NSD",
    ),
    "relative": (
        CACHE + "s = a @ b.transpose(2, 3)\nr = a @ self.r.transpose(2, 3)\nreturn torch.softmax(s + r, -1) @ c",
        "several matrix products",
    ),
    "flat": (
        ("a = self.q_proj(x) * 2\nb, c = past.update(self.k(x), self.v(x))\n"
        "return eager_attention_forward(self, a, b, c)"),
        "no axis of heads",
    ),
    "argument": ("return eager_attention_forward(self, x, mask, past)", "arguments of the function"),
}  # fmt: skip


def modeling(body: str) -> str:
    """A modeling file whose attention class has this forward."""
    return HEAD.lstrip() + textwrap.indent(body.strip("\n"), " " * 8) + "\n"


def marked(body: str) -> tuple[str, tuple[str, str, str], int]:
    """The file without its mark, the names at the mark, and the line above it."""
    lines = modeling(body).split("\n")
    at = next(index for index, line in enumerate(lines) if "# HERE" in line)
    names = tuple(lines.pop(at).split()[2:])
    return "\n".join(lines), names, at
