"""ViLBERT's layers equal those composed of nn.MultiheadAttention; its published sizes and names are met."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mmlearn as mm
from mmlearn.errors import ShapeError
from mmlearn.models.vilbert import CoAttention, ViLBERT, ViLBERTConfig, masked_region_loss, place_of_boxes
from tests.lively import lively

SMALL = ViLBERTConfig(
    30, 10, 6, d_model=16, n_heads=2, n_layers=3, d_ff=24, max_len=9, v_d_model=24, v_n_heads=3, v_n_layers=2,
    v_d_ff=20, co_d_model=32, co_n_heads=4, co_text=(1, 2), co_vision=(0, 1),
)  # fmt: skip


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    regions, places = torch.randn(3, 5, 10, generator=generator), torch.rand(3, 5, 5, generator=generator)
    tokens = torch.randint(5, 30, (3, 7), generator=generator)
    text = (tokens, torch.arange(7) < torch.tensor([[7], [5], [3]]))
    return regions, places, text, torch.arange(5) < torch.tensor([[5], [2], [4]])


class Composed(nn.Module):
    """A co-attention layer of nn.MultiheadAttention: its own query and output maps are the identity."""

    def __init__(self, layer, config):
        super().__init__()
        self.layer = layer
        inner, sizes = config.co_d_model, {"vision": config.v_d_model, "text": config.d_model}
        self.ask = nn.ModuleDict()
        for stream, other in (("vision", "text"), ("text", "vision")):
            attention = nn.MultiheadAttention(
                inner, config.co_n_heads, kdim=sizes[other], vdim=sizes[other], batch_first=True
            )
            with torch.no_grad():
                attention.q_proj_weight.copy_(torch.eye(inner))
                attention.out_proj.weight.copy_(torch.eye(inner))
                attention.out_proj.bias.zero_()
                k, v = (getattr(layer, f"{other}_{name}_proj") for name in "kv")
                attention.k_proj_weight.copy_(k.weight)
                attention.v_proj_weight.copy_(v.weight)
                attention.in_proj_bias.copy_(torch.cat([torch.zeros(inner), k.bias, v.bias]))
            self.ask[stream] = attention

    def forward(self, vision, text, vision_mask, text_mask):
        out = []
        for stream, x, memory, mask in (("vision", vision, text, text_mask), ("text", text, vision, vision_mask)):
            part = {n.removeprefix(f"{stream}_"): m for n, m in self.layer.named_children() if n.startswith(stream)}
            heads = self.ask[stream](part["q_proj"](x), memory, memory, key_padding_mask=~mask, need_weights=False)[0]
            x = part["norm"](x + part["out"](heads))
            ff = part["feed_forward"]
            out.append(part["feed_forward_norm"](x + ff.narrow(F.gelu(ff.widen(x)))))
        return tuple(out)


def test_co_attention_equals_one_composed_of_multihead_attention():
    layer = lively(CoAttention(SMALL))
    vision, text = torch.randn(3, 5, 24), torch.randn(3, 7, 16)
    vision_mask = torch.arange(5) < torch.tensor([[5], [2], [4]])
    text_mask = torch.arange(7) < torch.tensor([[7], [5], [3]])
    composed = Composed(layer, SMALL).eval()
    for i in range(2):
        mm.matches(
            lambda v, t, i=i: layer(v, t, vision_mask, text_mask)[i],
            lambda v, t, i=i: composed(v, t, vision_mask, text_mask)[i],
            vision,
            text,
            copy=False,
        )
    maps = layer(vision, text, vision_mask, text_mask, return_weights=True)[2]
    _, expected = composed.ask["text"](
        layer.text_q_proj(text), vision, vision, key_padding_mask=~vision_mask, average_attn_weights=False
    )
    torch.testing.assert_close(maps[1], expected, atol=1e-5, rtol=1e-5)
    assert maps[0].shape == (3, 4, 5, 7)


def test_both_streams_are_those_of_bert_and_meet_where_the_configuration_says(batch):
    regions, places, (tokens, mask), regions_mask = batch
    model = lively(ViLBERT(SMALL))
    words, seen = model.embed_text(tokens), model.embed_regions(regions, places)
    words = model.text_layers[0](words, mask=mask)
    seen, words = model.co_layers[0](seen, words, regions_mask, mask)
    words, seen = model.text_layers[1](words, mask=mask), model.vision_layers[0](seen, mask=regions_mask)
    seen, words = model.co_layers[1](seen, words, regions_mask, mask)
    words, seen = model.text_layers[2](words, mask=mask), model.vision_layers[1](seen, mask=regions_mask)
    out = model(*batch)
    torch.testing.assert_close(out.words, words)
    torch.testing.assert_close(out.regions, seen)
    torch.testing.assert_close(out.text, F.relu(model.text_pooler(words[:, 0])))
    assert [tuple(m[0].shape) for m in model.co_attention_maps(*batch)] == [(3, 4, 5, 7)] * 2


def test_a_text_layer_equals_that_of_bert():
    import transformers

    config = transformers.BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=24, vocab_size=30)
    reference = lively(transformers.models.bert.modeling_bert.BertLayer(config))
    reference.attention.self.config._attn_implementation = "eager"
    names = {f"text_layers.0.{n}": v for n, v in reference.state_dict().items()}
    own = ViLBERT.own_state({name.replace("text_layers", "bert.encoder.layer"): v for name, v in names.items()})
    layer = ViLBERT(SMALL).eval().text_layers[0]
    layer.load_state_dict({name.removeprefix("text_layers.0."): value for name, value in own.items()})
    x = torch.randn(2, 5, 16)
    output = reference(x)
    torch.testing.assert_close(layer(x), output[0] if isinstance(output, tuple) else output, atol=1e-5, rtol=1e-5)


def published_shapes(c: ViLBERTConfig) -> dict[str, tuple]:
    """Names and shapes of the published model, class by class."""
    shapes = {}

    def linear(name, inputs, outputs):
        shapes.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    def norm(name, size):
        shapes.update({f"{name}.weight": (size,), f"{name}.bias": (size,)})

    d, v, b = c.d_model, c.v_d_model, c.co_d_model
    e = "bert.embeddings."
    shapes |= {f"{e}word_embeddings.weight": (c.vocab_size, d), f"{e}position_embeddings.weight": (c.max_len, d)}
    shapes |= {f"{e}token_type_embeddings.weight": (2, d)}
    norm(f"{e}LayerNorm", d)
    linear("bert.v_embeddings.image_embeddings", c.n_features, v)
    linear("bert.v_embeddings.image_location_embeddings", 5, v)
    norm("bert.v_embeddings.LayerNorm", v)
    streams = (("layer", c.n_layers, d, c.d_ff), ("v_layer", c.v_n_layers, v, c.v_d_ff))
    for kind, n_layers, size, width in streams:
        for i in range(n_layers):
            start = f"bert.encoder.{kind}.{i}."
            for name in ("query", "key", "value"):
                linear(f"{start}attention.self.{name}", size, size)
            linear(f"{start}attention.output.dense", size, size)
            norm(f"{start}attention.output.LayerNorm", size)
            linear(f"{start}intermediate.dense", size, width)
            linear(f"{start}output.dense", width, size)
            norm(f"{start}output.LayerNorm", size)
    for i in range(len(c.co_text)):
        start = f"bert.encoder.c_layer.{i}."
        for number, letter, size, width in ((1, "v", v, c.v_d_ff), (2, "t", d, c.d_ff)):
            for name in ("query", "key", "value"):
                linear(f"{start}biattention.{name}{number}", size, b)
            linear(f"{start}biOutput.dense{number}", b, size)
            norm(f"{start}biOutput.LayerNorm{number}", size)
            linear(f"{start}biOutput.q_dense{number}", b, size)
            linear(f"{start}{letter}_intermediate.dense", size, width)
            linear(f"{start}{letter}_output.dense", width, size)
            norm(f"{start}{letter}_output.LayerNorm", size)
    linear("bert.t_pooler.dense", d, b)
    linear("bert.v_pooler.dense", v, b)
    linear("cls.predictions.transform.dense", d, d)
    norm("cls.predictions.transform.LayerNorm", d)
    shapes |= {"cls.predictions.bias": (c.vocab_size,), "cls.predictions.decoder.weight": (c.vocab_size, d)}
    linear("cls.imagePredictions.transform.dense", v, v)
    norm("cls.imagePredictions.transform.LayerNorm", v)
    linear("cls.imagePredictions.decoder", v, c.n_region_classes)
    linear("cls.bi_seq_relationship", b, 2)
    return shapes


def test_the_published_checkpoint_fits_name_by_name():
    config = ViLBERTConfig.published()
    with torch.device("meta"):
        model = ViLBERT(config)
        state = {f"module.{name}": torch.empty(shape) for name, shape in published_shapes(config).items()}
    own = ViLBERT.own_state(state)
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in own.items()} == wanted
    left_out = sum(value.numel() for name, value in state.items() if "q_dense" in name or "predictions.decoder" in name)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters + left_out == sum(value.numel() for value in state.values())
    assert 236e6 < parameters < 245e6  # with its heads


def test_published_numbers_reach_the_right_place(batch):
    state = {name: torch.randn(shape) for name, shape in published_shapes(SMALL).items()}
    model = ViLBERT(SMALL)
    model.load_state_dict(ViLBERT.own_state({name.replace("LayerNorm.weight", "LayerNorm.gamma"): v
                                             for name, v in state.items()}))  # fmt: skip
    layer = model.co_layers[1]
    assert torch.equal(layer.text_q_proj.weight, state["bert.encoder.c_layer.1.biattention.query2.weight"])
    assert torch.equal(layer.vision_out.bias, state["bert.encoder.c_layer.1.biOutput.dense1.bias"])
    assert torch.equal(
        model.vision_layers[1].norm.weight, state["bert.encoder.v_layer.1.attention.output.LayerNorm.weight"]
    )
    assert torch.equal(model.region_head[3].weight, state["cls.imagePredictions.decoder.weight"])


def test_padding_of_words_and_regions_changes_nothing(batch):
    regions, places, (tokens, mask), regions_mask = batch
    model = lively(ViLBERT(SMALL))
    out = model(*batch)
    changed = model(
        regions.masked_fill(~regions_mask[..., None], 9.0), places, (tokens.masked_fill(~mask, 6), mask), regions_mask
    )
    torch.testing.assert_close(changed.words[mask], out.words[mask])
    torch.testing.assert_close(changed.regions[regions_mask], out.regions[regions_mask])
    torch.testing.assert_close(changed.picture, out.picture)


def test_a_permutation_of_regions_permutes_them_and_leaves_the_words(batch):
    regions, places, text, _ = batch
    model = lively(ViLBERT(SMALL))
    order = torch.tensor([0, 3, 1, 4, 2])
    out, moved = model(regions, places, text), model(regions[:, order], places[:, order], text)
    torch.testing.assert_close(moved.regions, out.regions[:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved.words[text[1]], out.words[text[1]], atol=1e-5, rtol=1e-5)


def test_one_batch_can_be_learned_by_heart_by_all_three_heads(batch):
    torch.manual_seed(0)
    model = ViLBERT(SMALL)
    regions, places, text, regions_mask = batch
    target = F.one_hot(torch.randint(6, (3, 5)), 6).float()
    together = torch.tensor([1.0, 0.0, 1.0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        out = model(*batch)
        words = F.cross_entropy(model.guess_words(out)[text[1]], text[0][text[1]])
        seen = masked_region_loss(model.guess_regions(out), target, regions_mask)
        loss = words + seen + F.binary_cross_entropy_with_logits(model.matching(out), together)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3


def test_masked_region_loss_is_a_divergence_over_the_masked():
    logits = torch.randn(1, 2, 4)
    target = torch.tensor([[[0.7, 0.3, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]])
    log_q = logits.log_softmax(-1)[0, 0]
    expected = 0.7 * (torch.tensor(0.7).log() - log_q[0]) + 0.3 * (torch.tensor(0.3).log() - log_q[1])
    torch.testing.assert_close(masked_region_loss(logits, target, torch.tensor([[True, False]])), expected)
    assert masked_region_loss(logits, target, torch.tensor([[False, False]])) == 0
    torch.testing.assert_close(
        masked_region_loss(target.clamp(min=1e-9).log(), target, torch.tensor([[True, True]])), torch.tensor(0.0)
    )


def test_places_are_shares_of_the_picture():
    boxes = torch.tensor([[[0.0, 0.0, 32.0, 32.0], [8.0, 16.0, 16.0, 32.0]]])
    expected = torch.tensor([[[0.0, 0.0, 1.0, 1.0, 1.0], [0.25, 0.5, 0.5, 1.0, 0.125]]])
    torch.testing.assert_close(place_of_boxes(boxes, 32), expected)


def test_what_does_not_fit_is_refused(unchecked, batch):
    regions, places, text, _ = batch
    with pytest.raises(ShapeError, match="2 pictures but 3 texts"):
        ViLBERT(SMALL)(regions[:2], places[:2], text)
    with pytest.raises(ShapeError, match=r"co_text=\(2, 1\) must rise"):
        ViLBERTConfig(30, 10, 6, co_text=(2, 1))
    with pytest.raises(ShapeError, match=r"co_vision=\(0, 9\) must rise from 0 or more to at most 2"):
        ViLBERTConfig(30, 10, 6, co_vision=(0, 9))
    with pytest.raises(ShapeError, match="must be equally many"):
        ViLBERTConfig(30, 10, 6, co_vision=(0,))
    with pytest.raises(ShapeError, match="co_d_model=30 is no multiple"):
        ViLBERTConfig(30, 10, 6, co_d_model=30)
