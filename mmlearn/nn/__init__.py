"""Building blocks, one file per idea; they know nothing of data, models or training."""

from mmlearn.nn.attention import MultiHeadAttention, causal_mask, scaled_dot_product_attention

__all__ = ["MultiHeadAttention", "causal_mask", "scaled_dot_product_attention"]
