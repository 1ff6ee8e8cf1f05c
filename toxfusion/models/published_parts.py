"""Networks and layouts of weights that timm does not have: stems, poolers, and the names of published tensors.

Here: what `published` builds its rows from. Not here: the rows themselves, and loading.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn

State = dict[str, Tensor]


class ConvStem(nn.Module):
    """Two strided 3x3 convolutions and one 1x1 in place of patch embedding (Xiao et al., NeurIPS 2021)."""

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: Callable[[int], nn.Module] | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        side = img_size if isinstance(img_size, int) else img_size[0]
        self.grid_size = (side // patch_size, side // patch_size)
        narrow, wide = embed_dim // 8, embed_dim // 4
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, narrow, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, embed_dim, 1),
        )
        self.norm = norm_layer(embed_dim) if norm_layer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, H / 4, W / 4, embed_dim]."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


def dinov2_layout(state: State, model: nn.Module) -> State:
    """Names of Hugging Face's Dinov2Model as timm has them; query, key and value joined, no mask token."""
    renamed = {
        "embeddings.cls_token": "cls_token",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
        "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
        "layernorm.weight": "norm.weight",
        "layernorm.bias": "norm.bias",
    }
    parts = {
        "attention.output.dense": "attn.proj",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
    }
    out: State = {}
    for key, tensor in state.items():
        if key == "embeddings.mask_token" or ".attention.attention." in key:
            continue
        name = renamed.get(key, key)
        if key.startswith("encoder.layer."):
            name = key.replace("encoder.layer.", "blocks.")
            for theirs, ours in parts.items():
                name = name.replace(theirs, ours)
        out[name] = tensor
    for key in state:
        if ".attention.attention.query." in key:
            block, _, kind = key.partition(".attention.attention.query.")
            joined = [
                state[f"{block}.attention.attention.{part}.{kind}"] for part in ("query", "key", "value")
            ]
            out[f"{block.replace('encoder.layer.', 'blocks.')}.attn.qkv.{kind}"] = torch.cat(joined)
    return out


class AttentionPool(nn.Module):
    """One learned query that attends to all tokens (the contrastive pooler of CoCa, Yu et al., TMLR 2022).

    Args:
        width: of the tokens. dim: of the result. heads: of the attention.
    """

    def __init__(self, width: int, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.randn(1, dim))
        self.ln_k, self.ln_q = nn.LayerNorm(width), nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(width, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, T, width] -> [N, dim]."""

        def by_head(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        query = self.to_q(self.ln_q(self.query)).expand(len(tokens), 1, -1)
        keys, values = self.to_kv(self.ln_k(tokens)).chunk(2, dim=-1)
        read = nn.functional.scaled_dot_product_attention(by_head(query), by_head(keys), by_head(values))
        return self.to_out(read.transpose(1, 2).flatten(1))


class ConchVision(nn.Module):
    """The vision tower of CONCH 1.5: a vision transformer, all tokens of which one query reads.

    Args:
        dim: length of a feature vector. heads: of the pooling attention.
        trunk: options of timm's vit_large_patch16_224.
    """

    def __init__(self, dim: int = 768, heads: int = 8, **trunk: Any) -> None:
        super().__init__()
        options = {"img_size": 448, "init_values": 1.0, **trunk}
        self.trunk: Any = timm.create_model("vit_large_patch16_224", num_classes=0, **options)
        width = self.trunk.get_parameter("cls_token").shape[-1]
        self.attn_pool_contrast = AttentionPool(width, dim, heads)
        self.ln_contrast = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 448, 448] -> [N, dim]."""
        pooled: Tensor = self.ln_contrast(self.attn_pool_contrast(self.trunk.forward_features(x)))
        return pooled


def conch_layout(state: State, model: nn.Module) -> State:
    """The published position embedding, of 14 x 14 patches, brought to the model's grid as its own code does.

    That is by bicubic interpolation with the scale (28 + 0.1) / 14, which keeps 28 from being rounded down to 27.
    """
    key = "trunk.pos_embed"
    wanted = model.state_dict()[key].shape[1] - 1
    if key not in state or state[key].ndim != 3 or state[key].shape[1] - 1 == wanted:
        return state
    old, new = math.isqrt(state[key].shape[1] - 1), math.isqrt(wanted)
    if old * old != state[key].shape[1] - 1:
        return state
    grid = state[key][:, 1:].unflatten(1, (old, old)).permute(0, 3, 1, 2)
    scale = (new + 0.1) / old
    grid = nn.functional.interpolate(grid.float(), scale_factor=(scale, scale), mode="bicubic")
    return {**state, key: torch.cat([state[key][:, :1], grid.flatten(2).transpose(1, 2)], dim=1)}
