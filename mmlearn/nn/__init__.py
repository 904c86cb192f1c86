"""Building blocks, one file per idea; they know nothing of data, models or training."""

from mmlearn.nn.attention import MultiHeadAttention, causal_mask, scaled_dot_product_attention
from mmlearn.nn.cnn import (
    BasicBlock,
    BatchNorm2d,
    Bottleneck,
    ConvNet,
    ConvNetConfig,
    ResNet,
    ResNetConfig,
    conv2d,
    conv_size,
    receptive_field,
)
from mmlearn.nn.generate import generate, nucleus_filter, top_k_filter
from mmlearn.nn.rnn import GRUCell, LSTMCell, Recurrent, RecurrentLM, RecurrentLMConfig, RNNCell
from mmlearn.nn.transformer import (
    CausalLM,
    Encoder,
    EncoderDecoder,
    FeedForward,
    Transformer,
    TransformerConfig,
    TransformerLayer,
    rotary_turns,
    rotate,
    sinusoidal_positions,
)

__all__ = [
    "BasicBlock",
    "BatchNorm2d",
    "Bottleneck",
    "CausalLM",
    "ConvNet",
    "ConvNetConfig",
    "Encoder",
    "EncoderDecoder",
    "FeedForward",
    "GRUCell",
    "LSTMCell",
    "MultiHeadAttention",
    "RNNCell",
    "Recurrent",
    "RecurrentLM",
    "RecurrentLMConfig",
    "ResNet",
    "ResNetConfig",
    "Transformer",
    "TransformerConfig",
    "TransformerLayer",
    "causal_mask",
    "conv2d",
    "conv_size",
    "generate",
    "nucleus_filter",
    "receptive_field",
    "rotary_turns",
    "rotate",
    "scaled_dot_product_attention",
    "sinusoidal_positions",
    "top_k_filter",
]
