"""The Vision Transformer equals transformers' in outputs and gradients, and sees patches as it should."""

import math

import pytest
import torch
import torch.nn.functional as F

import mmlearn as mm
from mmlearn.errors import CheckpointError, ShapeError
from mmlearn.nn import ViT, ViTConfig, patchify, resize_positions, unpatchify
from tests.lively import lively

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
SIZES |= {"image_size": 16, "patch_size": 4, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def theirs(kind="ViTModel", **changes):
    import transformers

    return lively(getattr(transformers, kind)(transformers.ViTConfig(**SIZES | changes)))


@pytest.fixture
def images():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_equal_to_vitmodel_in_outputs_and_gradients_through_saved_weights(tmp_path, images):
    reference = theirs()
    reference.save_pretrained(tmp_path)
    model = ViT.from_pretrained(tmp_path)
    assert model.config.pooler
    assert model.config.n_classes == 0
    torch.testing.assert_close(model.tokens(images), reference(images).last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(images), reference(images).pooler_output, atol=1e-5, rtol=1e-5)
    mm.matches(model, reference, images, map=ViT.own_state, select=lambda output: output.pooler_output)


def test_equal_to_vitforimageclassification_in_outputs_and_gradients(tmp_path, images):
    reference = theirs("ViTForImageClassification", num_labels=5)
    reference.save_pretrained(tmp_path)
    model = ViT.from_pretrained(tmp_path)
    assert model.config.n_classes == 5
    assert not model.config.pooler
    mm.matches(model, reference, images, map=ViT.own_state, select=lambda output: output.logits)


def test_equal_in_float64_to_ten_digits(tmp_path, images):
    reference = theirs()
    reference.save_pretrained(tmp_path)
    model = ViT.from_pretrained(tmp_path).double()
    found, expected = model.tokens(images.double()), reference.double()(images.double()).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", ["ViTModel", "ViTForImageClassification"])
def test_transformers_opens_what_we_save_with_equal_outputs(tmp_path, images, kind):
    import transformers

    classes = 5 if kind != "ViTModel" else 0
    config = ViTConfig(16, 4, 24, 3, 2, d_ff=40, n_classes=classes, pooler=not classes, activation="gelu_tanh")
    model = ViT(config).eval()
    torch.nn.init.normal_(model.class_token)
    model.save_pretrained(tmp_path)
    reference = getattr(transformers, kind).from_pretrained(tmp_path).eval()
    output = reference(images)
    torch.testing.assert_close(model(images), output.logits if classes else output.pooler_output, atol=1e-5, rtol=1e-5)


def test_interpolated_positions_equal_those_of_transformers(tmp_path):
    reference = theirs()
    reference.save_pretrained(tmp_path)
    model = ViT.from_pretrained(tmp_path)
    larger = torch.randn(1, 3, 24, 32)
    expected = reference(larger, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(model.tokens(larger, interpolate=True), expected, atol=1e-5, rtol=1e-5)
    same = torch.randn(1, 17, 8)
    assert resize_positions(same, (4, 4)) is same
    with pytest.raises(ShapeError, match="16 positions are no square|15 positions are no square"):
        resize_positions(same[:, 1:], (3, 3))


def test_patches_as_a_reshape_equal_a_convolution(images):
    model = ViT(ViTConfig(16, 4, 24, 3, 1))
    rows = patchify(images, 4)
    assert rows.shape == (2, 16, 48)
    by_matrix = rows @ model.stem.weight.flatten(1).T + model.stem.bias
    torch.testing.assert_close(by_matrix, model.stem(images).flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)
    assert torch.equal(unpatchify(rows, 4), images)
    wide = torch.arange(2 * 8 * 12.0).view(1, 2, 8, 12)
    assert torch.equal(patchify(wide, 4)[0, 4], wide[0, :, 4:8, 4:8].flatten())


def test_without_positions_a_permutation_of_patches_permutes_the_tokens(images):
    model = ViT(ViTConfig(16, 4, 24, 3, 2, pool="mean")).eval()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    shuffled = unpatchify(patchify(images, 4)[:, order], 4)
    assert not torch.allclose(model.tokens(shuffled), model.tokens(images)[:, order], atol=1e-4)
    torch.nn.init.zeros_(model.positions)
    torch.testing.assert_close(model.tokens(shuffled), model.tokens(images)[:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(shuffled), model(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stem", ["patches", "convolutions"])
@pytest.mark.parametrize("pool", ["class", "mean"])
def test_stems_and_pools_give_the_same_grid_and_learn(stem, pool):
    torch.manual_seed(0)
    model = ViT(ViTConfig(16, 4, 24, 3, 2, stem=stem, pool=pool, n_classes=4))
    images = torch.randn(8, 3, 16, 16)
    assert model.tokens(images).shape == (8, 16 + (pool == "class"), 24)
    labels = torch.arange(8) % 4
    assert abs(F.cross_entropy(model(images), labels).item() - math.log(4)) < 0.5
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_attention_maps_are_those_that_the_model_uses(images):
    reference = theirs()
    reference.set_attn_implementation("eager")
    model = ViT(ViTConfig(16, 4, 24, 3, 2, d_ff=40, pooler=True)).eval()
    model.load_state_dict(ViT.own_state(reference.state_dict()))
    maps = model.attention_maps(images)
    for mine, other in zip(maps, reference(images, output_attentions=True).attentions, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(maps[0].sum(dim=-1), torch.ones(2, 3, 17))


def test_the_published_sizes_have_the_published_number_of_weights():
    with torch.device("meta"):
        model = ViT(ViTConfig(224, 16, 768, 12, 12, n_classes=1000))
    assert sum(parameter.numel() for parameter in model.parameters()) == 86_567_656


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 20, 20), r"20 × 20 pixels, the model was made for 16 × 16: resize them, or pass interpolate=True"),
        ((2, 3, 16, 18), "cannot be cut into patches of 4"),
        ((2, 1, 16, 16), r"expected \(batch, 3, height, width\)"),
        ((3, 16, 16), r"expected \(batch, 3, height, width\)"),
        ((2, 3, 0, 16), "cannot be cut into patches"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(unchecked, shape, message):
    with pytest.raises(ShapeError, match=message):
        ViT(ViTConfig(16, 4, 24, 3, 1)).tokens(torch.zeros(shape))


def test_whole_numbers_and_impossible_sizes_are_refused(unchecked):
    with pytest.raises(ShapeError, match="pass data.normalise"):
        ViT(ViTConfig(16, 4, 24, 3, 1))(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(ShapeError, match="cannot be cut into patches of 5"):
        ViTConfig(16, 5)
    with pytest.raises(ShapeError, match="not of 3"):
        ViTConfig(12, 3, stem="convolutions")
    with pytest.raises(ValueError, match="stem 'pixels'"):
        ViTConfig(stem="pixels")
    with pytest.raises(ValueError, match="a pooler reads the class token"):
        ViTConfig(pool="mean", pooler=True)
    with pytest.raises(ShapeError, match="no square of patches"):
        unpatchify(torch.zeros(1, 5, 48), 4)


def test_an_empty_batch_gives_an_empty_result():
    assert ViT(ViTConfig(16, 4, 24, 3, 1, n_classes=2))(torch.zeros(0, 3, 16, 16)).shape == (0, 2)


def test_what_transformers_does_not_have_cannot_be_saved_for_it(tmp_path):
    with pytest.raises(CheckpointError, match="no ViT with stem='convolutions'"):
        ViT(ViTConfig(stem="convolutions")).save_pretrained(tmp_path)
