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
from mmlearn.nn.rnn import GRUCell, LSTMCell, Recurrent, RecurrentLM, RecurrentLMConfig, RNNCell

__all__ = [
    "BasicBlock",
    "BatchNorm2d",
    "Bottleneck",
    "ConvNet",
    "ConvNetConfig",
    "GRUCell",
    "LSTMCell",
    "MultiHeadAttention",
    "RNNCell",
    "Recurrent",
    "RecurrentLM",
    "RecurrentLMConfig",
    "ResNet",
    "ResNetConfig",
    "causal_mask",
    "conv2d",
    "conv_size",
    "receptive_field",
    "scaled_dot_product_attention",
]
