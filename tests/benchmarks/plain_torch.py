"""CMA-CLIP as one would write it in PyTorch from the usual parts: what ours is compared with.

Hugging Face's CLIP towers with PyTorch's own fused attention (SDPA), and plain modules after them.
`from_ours` gives it the parameters of a run, so that both compute the same.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from cmaclip_jax.models import CLIP, CMAClip
from cmaclip_jax.weights import huggingface
from cmaclip_jax.weights.layout import write_parameters

PLACES = "text_model.embeddings.position_embedding.weight"


class Layer(nn.Module):
    """A pre-norm layer that may look at the tokens of `allowed` [B,1,1,S]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp_up, self.mlp_down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, allowed):
        batch, length, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each [B,N,S,H]
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        y = self.mlp_up(self.mlp_norm(x))
        return x + self.mlp_down(y * torch.sigmoid(1.702 * y))


class PlainCMAClip(nn.Module):
    """The same network as a `CMAClip` with modality-wise attention, for pairs that lack nothing.

    length: the most tokens of a text.
    """

    def __init__(self, model: CMAClip, length: int):
        super().__init__()
        config = huggingface.config_files(CLIP(model.image, model.text))["config.json"]
        config["text_config"]["max_position_embeddings"] = length
        self.clip = CLIPModel._from_config(CLIPConfig(**config), attn_implementation="sdpa")
        width, layers = model.image.projection, model.sequence.layers
        self.types = nn.Parameter(torch.zeros(2, width))
        self.layers = nn.ModuleList(Layer(width, model.sequence.heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.vectors = nn.Parameter(torch.zeros(len(model.tasks), width))
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, classes))
            for _, classes in model.tasks
        )
        self.register_buffer("mean", torch.tensor(model.image.mean).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(model.image.deviation).view(1, 3, 1, 1))

    def forward(self, pictures, ids):
        """Pictures u8 [B,3,H,W] and token ids [B,T] -> logits, one [B,C] a task."""
        pixels = (pictures / 255.0 - self.mean) / self.deviation
        vision, text = self.clip.vision_model, self.clip.text_model
        seen = vision.post_layernorm(vision(pixel_values=pixels).last_hidden_state)
        seen = self.clip.visual_projection(seen)  # [B,P+1,D]
        read = self.clip.text_projection(text(input_ids=ids).last_hidden_state)  # [B,T,D]
        x = torch.cat([seen + self.types[0], read + self.types[1]], dim=1)
        end, patches = ids.argmax(-1), seen.shape[1]
        places = torch.arange(x.shape[1], device=x.device)
        allowed = (places <= patches + end[:, None])[:, None, None]  # [B,1,1,S]
        for layer in self.layers:
            x = layer(x, allowed)
        x = self.norm(x)
        rows = torch.arange(len(x), device=x.device)
        pair = torch.stack([x[:, 0], x[rows, patches + end]], dim=1)  # [B,2,D]
        weights = (pair.float() @ self.vectors.T).softmax(dim=1)  # [B,2,tasks]
        mixed = torch.einsum("bmd,bmt->tbd", pair, weights.to(pair.dtype))
        return [head(one).float() for head, one in zip(self.heads, mixed, strict=True)]

    def loss(self, pictures, ids, labels):
        """The sum over tasks of the mean cross-entropy; labels [tasks,B]."""
        logits = self(pictures, ids)
        return sum(F.cross_entropy(x, y) for x, y in zip(logits, labels, strict=True))


def from_ours(model: CMAClip, params, length: int) -> PlainCMAClip:
    """The torch network with these parameters of ours, for texts of up to `length` tokens."""
    network = PlainCMAClip(model, length)
    clip = CLIP(model.image, model.text)
    of_clip = {name: params[name] for name in ("image", "text", "logit_scale")}
    tensors = write_parameters(of_clip, huggingface.PAIRINGS, clip)
    places = np.zeros((length, model.text.width), np.float32)  # beyond ours there is padding
    places[: model.text.length] = tensors[PLACES]
    tensors[PLACES] = places
    network.clip.load_state_dict({k: torch.tensor(np.array(v)) for k, v in tensors.items()})
    sequence = params["sequence"]
    blocks = [_unstacked(sequence["stack"]["blocks"], i) for i in range(model.sequence.layers - 1)]
    for layer, block in zip(network.layers, [*blocks, sequence["last"]], strict=True):
        _load_layer(layer, block)
    types = np.stack([sequence["image_type"], sequence["text_type"]])
    with torch.no_grad():
        network.types.copy_(torch.tensor(types))
        network.vectors.copy_(torch.tensor(np.array(params["modality"]["vectors"][:, 0])))
    _load_norm(network.norm, sequence["norm"])
    for (name, _), head in zip(model.tasks, network.heads, strict=True):
        _load_dense(head[0], params[f"head_{name}"]["hidden_0"])
        _load_dense(head[2], params[f"head_{name}"]["logits"])
    return network


def torch_batch(batch, device: str):
    """A batch of ours as torch's arguments (pictures with channels first), on the device."""
    pictures = torch.tensor(batch["image"]).permute(0, 3, 1, 2).contiguous()
    labels = np.stack(list(batch["labels"].values()))
    ids = torch.tensor(batch["tokens"], dtype=torch.long)
    return tuple(x.to(device) for x in (pictures, ids, torch.tensor(labels, dtype=torch.long)))


def _unstacked(tree, index: int):
    return {k: _unstacked(v, index) if hasattr(v, "items") else v[index] for k, v in tree.items()}


def _load_layer(layer: Layer, block) -> None:
    width = layer.out.in_features
    attention = block["attention"]
    qkv = {  # [D,3,N,H] and [3,N,H]
        "kernel": np.array(attention["qkv"]["kernel"]).reshape(width, 3 * width),
        "bias": np.array(attention["qkv"]["bias"]).reshape(3 * width),
    }
    out = attention["out"] | {"kernel": np.array(attention["out"]["kernel"]).reshape(width, width)}
    for module, numbers in ((layer.qkv, qkv), (layer.out, out)):
        _load_dense(module, numbers)
    for name in ("mlp_up", "mlp_down"):
        _load_dense(getattr(layer, name), block[name])
    for name in ("attention_norm", "mlp_norm"):
        _load_norm(getattr(layer, name), block[name])


def _load_dense(module: nn.Linear, numbers) -> None:
    with torch.no_grad():
        module.weight.copy_(torch.tensor(np.array(numbers["kernel"]).T))
        module.bias.copy_(torch.tensor(np.array(numbers["bias"])))


def _load_norm(module: nn.LayerNorm, numbers) -> None:
    with torch.no_grad():
        module.weight.copy_(torch.tensor(np.array(numbers["scale"])))
        module.bias.copy_(torch.tensor(np.array(numbers["bias"])))
