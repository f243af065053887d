"""A small language model over characters: what a transformer is made of, and no more."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    """Each position looks at those before it and itself (Vaswani et al., 2017); ``(n, length, width)`` in and out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """The values that the queries ask for, mixed by ``out``."""
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return self.out(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and two linear layers, each after a layer norm and added to what came in (Radford et al., 2019)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.gelu = nn.LayerNorm(width), nn.GELU()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, length, width)`` in and out."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(self.gelu(self.up(self.norm2(x))))


class Characters(nn.Module):
    """What a character is, and where: the sum of two learned vectors; int64 ``(n, length)`` to ``(n, length, width)``."""

    def __init__(self, characters: int, length: int, width: int) -> None:
        super().__init__()
        self.what, self.where = nn.Embedding(characters, width), nn.Embedding(length, width)
        nn.init.normal_(self.what.weight, std=0.02)
        nn.init.normal_(self.where.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Texts of at most ``length`` characters."""
        return self.what(x) + self.where(torch.arange(x.shape[1], device=x.device))


def char_transformer(characters: int = 97, length: int = 128, width: int = 192, depth: int = 4, heads: int = 6) -> nn.Sequential:
    """Logits of the next character at each position: int64 ``(n, length)`` to ``(n, length, characters)``."""
    parts: dict[str, nn.Module] = {"embed": Characters(characters, length, width)}
    parts |= {f"block{i}": Block(width, heads) for i in range(1, depth + 1)}
    parts |= {"norm": nn.LayerNorm(width), "out": nn.Linear(width, characters)}
    return nn.Sequential(OrderedDict(parts))
