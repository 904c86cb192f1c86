"""Our blocks beside PyTorch's and transformers' of the same size: forward and backward, in one run, as ratios.

Run: python benchmarks/blocks.py [name …]      (aim: at least 1.0 times the fastest peer, none below 0.9)
"""

import sys
import time

import torch
from torch import nn

from mmlearn.nn import CausalLM, Recurrent, ResNet, ResNetConfig, Transformer, TransformerConfig
from mmlearn.nn.rnn import to_torch

SIZES = {"d_model": 256, "n_heads": 8, "n_layers": 4, "vocab_size": 1000, "max_len": 128, "activation": "gelu_tanh"}
BATCH, LENGTH = 16, 64


def milliseconds(steps: dict, repeats: int = 9) -> dict[str, float]:
    """Best time of each contestant; they take turns, so that a busy moment hits all of them."""
    best = dict.fromkeys(steps, float("inf"))
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if repeat:  # the first turn does not count
                best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    return best


def encoder() -> dict:
    """Four encoder layers with padding, pre-norm, against PyTorch's."""
    config = TransformerConfig(**SIZES | {"activation": "gelu"})
    layer = nn.TransformerEncoderLayer(256, 8, 1024, 0.0, "gelu", batch_first=True, norm_first=True)
    theirs = nn.TransformerEncoder(layer, 4, norm=nn.LayerNorm(256), enable_nested_tensor=False)
    ours = Transformer(config)
    x = torch.randn(BATCH, LENGTH, 256, requires_grad=True)
    mask = torch.arange(LENGTH) < torch.linspace(LENGTH // 2, LENGTH, BATCH)[:, None]
    return {
        "ours": lambda: ours(x, mask=mask).sum().backward(),
        "PyTorch": lambda: theirs(x, src_key_padding_mask=~mask).sum().backward(),
    }


def decoder() -> dict:
    """A causal language model of four layers, against GPT-2 of transformers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    ours = CausalLM(TransformerConfig(**SIZES))
    sizes = {"vocab_size": 1000, "n_positions": 128, "n_embd": 256, "n_layer": 4, "n_head": 8}
    theirs = GPT2LMHeadModel(GPT2Config(**sizes, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, use_cache=False))
    tokens = torch.randint(1000, (BATCH, LENGTH))
    return {
        "ours": lambda: ours(tokens).sum().backward(),
        "transformers": lambda: theirs(tokens).logits.sum().backward(),
    }


def lstm() -> dict:
    """Two LSTM layers in both directions, against PyTorch's with the same weights."""
    ours = Recurrent("lstm", 256, 256, 2, bidirectional=True)
    theirs = nn.LSTM(256, 256, 2, batch_first=True, bidirectional=True)
    theirs.load_state_dict(to_torch(ours.state_dict()))
    x = torch.randn(BATCH, LENGTH, 256, requires_grad=True)
    return {
        "ours": lambda: ours(x)[0].sum().backward(),
        "PyTorch": lambda: theirs(x)[0].sum().backward(),
    }


def resnet() -> dict:
    """ResNet-18 in training on 224-pixel pictures, against torchvision's and transformers'; all in channels_last."""
    import torchvision
    from transformers import ResNetConfig as TheirConfig
    from transformers import ResNetForImageClassification

    basic = TheirConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=1000)
    ours = ResNet(ResNetConfig.of(18))
    torchvisions = torchvision.models.resnet18().to(memory_format=torch.channels_last)
    transformers_ = ResNetForImageClassification(basic).to(memory_format=torch.channels_last)
    images = torch.randn(8, 3, 224, 224).to(memory_format=torch.channels_last)
    return {
        "ours": lambda: ours(images).sum().backward(),
        "torchvision": lambda: torchvisions(images).sum().backward(),
        "transformers": lambda: transformers_(images).logits.sum().backward(),
    }


CASES = {"encoder": encoder, "decoder": decoder, "lstm": lstm, "resnet": resnet}


def main() -> None:
    torch.set_num_threads(2)
    for name in sys.argv[1:] or CASES:
        torch.manual_seed(0)
        times = milliseconds(CASES[name]())
        peers = {peer: t for peer, t in times.items() if peer != "ours"}
        others = ", ".join(f"{peer} {t:.1f} ms ({t / times['ours']:.2f}x)" for peer, t in peers.items())
        print(f"{name:<10} ours {times['ours']:.1f} ms, {others}")


if __name__ == "__main__":
    main()
