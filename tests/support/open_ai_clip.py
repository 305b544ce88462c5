"""CLIP in PyTorch under the names of OpenAI and OpenCLIP: an oracle for their checkpoints."""

import torch

from support.hugging_face import randomised


class OpenAIBlock(torch.nn.Module):
    """A layer as OpenAI wrote it, with PyTorch's own attention."""

    def __init__(self, width, heads, activation, causal, mlp_ratio):
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.mlp = torch.nn.Sequential()
        self.mlp.add_module("c_fc", torch.nn.Linear(width, mlp_ratio * width))
        self.mlp.add_module("gelu", activation)
        self.mlp.add_module("c_proj", torch.nn.Linear(mlp_ratio * width, width))
        self.causal = causal

    def forward(self, x):
        length, y = x.shape[1], self.ln_1(x)
        mask = torch.full((length, length), float("-inf")).triu(1) if self.causal else None
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class QuickGELU(torch.nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class OpenAIStack(torch.nn.Module):
    def __init__(self, width, layers, heads, activation, causal, mlp_ratio):
        super().__init__()
        how = (width, heads, activation, causal, mlp_ratio)
        blocks = [OpenAIBlock(*how) for _ in range(layers)]
        self.resblocks = torch.nn.Sequential(*blocks)

    def forward(self, x):
        return self.resblocks(x)


class OpenAIVision(torch.nn.Module):
    def __init__(self, width, layers, heads, patch, size, projection, activation, mlp_ratio):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = torch.nn.Parameter(torch.randn(width))
        self.positional_embedding = torch.nn.Parameter(torch.randn((size // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.transformer = OpenAIStack(width, layers, heads, activation, False, mlp_ratio)
        self.proj = torch.nn.Parameter(width**-0.5 * torch.randn(width, projection))

    def forward(self, pixels):
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(x.shape[0], 1, -1)
        x = self.ln_pre(torch.cat([first, x], 1) + self.positional_embedding)
        return self.ln_post(self.transformer(x)[:, 0]) @ self.proj


class OpenAIClip(torch.nn.Module):
    """CLIP under OpenAI's and OpenCLIP's names, written for these tests."""

    def __init__(
        self,
        activation,
        image=(64, 2, 1, 8, 16),
        text=(64, 2, 1),
        length=12,
        words=50,
        mlp_ratio=4,
    ):
        """image: width, layers, heads, patch, size. text: width, layers, heads."""
        super().__init__()
        self.visual = OpenAIVision(*image, 48, activation, mlp_ratio)
        self.transformer = OpenAIStack(*text, activation, True, mlp_ratio)
        self.token_embedding = torch.nn.Embedding(words, text[0])
        self.positional_embedding = torch.nn.Parameter(torch.randn(length, text[0]))
        self.ln_final = torch.nn.LayerNorm(text[0])
        self.text_projection = torch.nn.Parameter(text[0] ** -0.5 * torch.randn(text[0], 48))
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.5))

    def forward(self, pixels, ids):
        x = self.token_embedding(ids) + self.positional_embedding
        x = self.ln_final(self.transformer(x))
        x = x[torch.arange(x.shape[0]), ids.argmax(-1)] @ self.text_projection
        return self.visual(pixels), x


def open_ai_clip(activation, **sizes):
    """One with random weights, biases and norms, always the same."""
    torch.manual_seed(0)
    return randomised(OpenAIClip(activation, **sizes)).eval()
