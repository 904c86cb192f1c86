"""CLIP and SigLIP equal transformers' in outputs, loss and gradients, and read and write its checkpoints."""

import math

import pytest
import torch
import torch.nn.functional as F

import mmlearn as mm
from mmlearn.errors import CheckpointError, DataError, ShapeError
from mmlearn.models import contrastive_loss, image_encoder
from mmlearn.models.clip import (
    CLIP,
    CLIPConfig,
    ResNetTower,
    SigLIP,
    TowerConfig,
    cached_gradients,
    class_vectors,
    embed_all,
    sigmoid_loss,
    zero_shot,
)
from tests.lively import lively

TEXT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT |= {"vocab_size": 30, "max_position_embeddings": 10, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
VISION = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
VISION |= {"image_size": 8, "patch_size": 4}


def theirs(kind):
    import transformers

    if kind == "CLIP":
        config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=12)
    else:
        config = transformers.SiglipConfig(text_config=TEXT | {"projection_size": 24}, vision_config=VISION)
    return lively(getattr(transformers, "CLIPModel" if kind == "CLIP" else "SiglipModel")(config), leave="logit")


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 30, (4, 7), generator=generator)
    for row, length in enumerate((6, 4, 3, 6)):
        tokens[row, length] = 3
        tokens[row, length + 1 :] = 0
    return torch.randn(4, 3, 8, 8, generator=generator), tokens


def small(kind=CLIP):
    torch.manual_seed(0)
    eps, activation = (1e-5, "quick_gelu") if kind is CLIP else (1e-6, "gelu_tanh")
    vision = TowerConfig(24, 3, 2, 40, activation, eps)
    text = TowerConfig(16, 2, 2, 32, activation, eps)
    return kind(CLIPConfig(30, vision, text, 8, 4, max_len=10, d_proj=24)).eval()


@pytest.mark.parametrize(("kind", "own"), [("CLIP", CLIP), ("SigLIP", SigLIP)])
def test_equal_to_transformers_in_outputs_and_gradients(tmp_path, batch, kind, own):
    images, tokens = batch
    reference = theirs(kind)
    reference.save_pretrained(tmp_path)
    model = own.from_pretrained(tmp_path)
    output = reference(input_ids=tokens, pixel_values=images)
    torch.testing.assert_close(model.embed_images(images), output.image_embeds, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.embed_text(tokens), output.text_embeds, atol=1e-5, rtol=1e-5)

    class Reference(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = reference

        def forward(self, pixels, tokens):
            return self.model(input_ids=tokens, pixel_values=pixels).logits_per_image

    def rename(state):
        return own.own_state({name.removeprefix("model."): value for name, value in state.items()})

    mm.matches(model, Reference(), images, tokens, map=rename)


@pytest.mark.parametrize(("kind", "own", "loss"), [("CLIP", CLIP, contrastive_loss), ("SigLIP", SigLIP, sigmoid_loss)])
def test_losses_equal_those_of_transformers(tmp_path, batch, kind, own, loss):
    images, tokens = batch
    reference = theirs(kind).double()
    reference.save_pretrained(tmp_path)
    model = own.from_pretrained(tmp_path).double()
    expected = reference(input_ids=tokens, pixel_values=images.double(), return_loss=True).loss
    torch.testing.assert_close(loss(model(images.double(), tokens)), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("kind", "own"), [("CLIPModel", CLIP), ("SiglipModel", SigLIP)])
def test_transformers_opens_what_we_save_with_equal_outputs(tmp_path, batch, kind, own):
    import transformers

    images, tokens = batch
    model = small(own)
    model.save_pretrained(tmp_path)
    reference = getattr(transformers, kind).from_pretrained(tmp_path).eval()
    output = reference(input_ids=tokens, pixel_values=images)
    torch.testing.assert_close(model(images, tokens), output.logits_per_image, atol=1e-4, rtol=1e-5)
    assert own.from_pretrained(tmp_path).config == model.config


def test_the_published_sizes_have_the_published_number_of_weights():
    vision, text = TowerConfig(768, 12, 12), TowerConfig(512, 8, 12)
    with torch.device("meta"):
        model = CLIP(CLIPConfig(49408, vision, text, 224, 32, max_len=77, d_proj=512))
    assert sum(parameter.numel() for parameter in model.parameters()) == 151_277_313


def test_a_text_is_read_up_to_its_end_token_and_no_further(batch):
    _, tokens = batch
    model = small()
    behind = tokens.clone()
    behind[2, 4:] = torch.tensor([9, 3, 5])
    torch.testing.assert_close(model.embed_text(behind), model.embed_text(tokens))
    torch.testing.assert_close(model.embed_text(tokens[2:3, :4]), model.embed_text(tokens)[2:3])
    before = tokens.clone()
    before[2, 1] += 1
    assert not torch.allclose(model.embed_text(before)[2], model.embed_text(tokens)[2])


def test_unit_vectors_and_a_clipped_scale(batch):
    images, tokens = batch
    model = small()
    torch.testing.assert_close(model.embed_images(images).norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(model.embed_text(tokens).norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(model.scale, torch.tensor(1 / 0.07))
    with torch.no_grad():
        model.log_scale.fill_(10.0)
    assert model.scale == 100
    assert model(images, tokens).abs().max() <= 100


def test_the_loss_starts_near_chance_and_a_batch_is_learned_by_heart(batch):
    images, tokens = batch
    for kind, loss in ((CLIP, contrastive_loss), (SigLIP, sigmoid_loss)):
        model = small(kind).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(200):
            value = loss(model(images, tokens))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        assert value.item() < 0.2, kind
    assert abs(contrastive_loss(torch.zeros(8, 8)).item() - math.log(8)) < 1e-6


def test_sigmoid_loss_is_a_yes_or_no_for_every_pair():
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    expected = F.binary_cross_entropy_with_logits(logits, torch.eye(3), reduction="sum") / 3
    torch.testing.assert_close(sigmoid_loss(logits), expected)


def test_a_convolutional_picture_tower_takes_the_place_of_the_vit(tmp_path, batch):
    model = CLIP(CLIPConfig(30, text=TowerConfig(16, 2, 1), d_proj=8), vision=image_encoder("convnet"))
    assert model(torch.randn(4, 3, 32, 32), batch[1]).shape == (4, 4)
    with pytest.raises(CheckpointError, match="no CLIP with another picture tower"):
        model.save_pretrained(tmp_path)


def test_first_configurations_mean_the_last_token_by_two(tmp_path):
    import json

    small().save_pretrained(tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    described["text_config"]["eos_token_id"] = 2
    (tmp_path / "config.json").write_text(json.dumps(described))
    assert CLIP.from_pretrained(tmp_path).config.end_id == 29
    del described["text_config"]
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="no text_config"):
        CLIP.from_pretrained(tmp_path)


def test_what_does_not_fit_is_refused(unchecked, batch):
    images, tokens = batch
    model = small()
    with pytest.raises(DataError, match="text 1 has no end token 3: cut long texts with truncate=True"):
        model.embed_text(tokens[:, :4].masked_fill(torch.arange(4) > 9, 0)[[2, 1]])
    with pytest.raises(DataError, match="token 30 at position 0"):
        model.embed_text(torch.tensor([[30, 3]]))
    with pytest.raises(ShapeError, match="with 1 to 10 a row"):
        model.embed_text(torch.full((1, 11), 3))
    with pytest.raises(ShapeError, match=r"expected \(batch, 3, 8, 8\)"):
        model.embed_images(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ShapeError, match="expected a square"):
        sigmoid_loss(torch.zeros(2, 3))
    with pytest.raises(ShapeError, match="cannot be cut into patches of 5"):
        CLIPConfig(30, patch_size=5)
    with pytest.raises(ShapeError, match="d_proj=128 must be 64"):
        SigLIP(CLIPConfig(30, TowerConfig(64)))


@pytest.mark.parametrize(("kind", "loss"), [(CLIP, contrastive_loss), (SigLIP, sigmoid_loss)])
@pytest.mark.parametrize("part", [1, 3, 4, 9])
def test_gradients_in_parts_equal_those_of_the_whole_batch(batch, kind, loss, part):
    images, tokens = batch
    whole, parts = small(kind).double().train(), small(kind).double().train()
    value = loss(whole(images.double(), tokens))
    value.backward()
    torch.testing.assert_close(cached_gradients(parts, images.double(), tokens, loss, part), value.detach())
    for (name, one), other in zip(whole.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, msg=name)


def test_gradients_in_parts_are_added_to_what_is_there(batch):
    model = small().train()
    cached_gradients(model, *batch, contrastive_loss, 2)
    once = model.log_scale.grad.clone()
    cached_gradients(model, *batch, contrastive_loss, 2)
    torch.testing.assert_close(model.log_scale.grad, 2 * once)
    assert once != 0


def test_a_residual_tower_sees_where_things_stand():
    torch.manual_seed(0)
    tower = ResNetTower(16, (8, 16), n_heads=2).eval()
    images = torch.randn(2, 3, 16, 16)
    assert tower(images).shape == (2, 16)
    assert tower.d_model == 16
    tower.blocks = torch.nn.Conv2d(3, 16, 4, 4)  # sees no border: only the positions can tell one place from another
    assert not torch.allclose(tower(images), tower(images.roll(4, dims=3)), atol=1e-4)
    with pytest.raises(ShapeError, match="cannot be halved 2 times"):
        ResNetTower(18, (8, 16))


def test_a_residual_tower_refuses_another_size(unchecked):
    with pytest.raises(ShapeError, match="give 64 places, not 16"):
        ResNetTower(16, (8, 16), n_heads=2)(torch.zeros(2, 3, 32, 32))


def test_many_are_embedded_in_evaluation_mode_and_the_mode_comes_back(batch):
    images, tokens = batch
    model = CLIP(CLIPConfig(30, text=TowerConfig(16, 2, 1), d_proj=8), vision=ResNetTower(8, (8,), 2)).train()
    vectors = embed_all(model, images, batch_size=3)
    assert model.training
    assert not vectors.requires_grad
    torch.testing.assert_close(vectors, model.eval().embed_images(images).detach())
    with pytest.raises(ShapeError, match="one of the two"):
        embed_all(model, images, tokens)


def test_class_vectors_and_zero_shot_by_hand(batch):
    images, tokens = batch
    model = small()
    prompts = tokens.view(2, 2, -1)
    expected = model.embed_text(tokens).view(2, 2, -1).mean(1)
    classes = class_vectors(model, prompts)
    torch.testing.assert_close(classes, (expected / expected.norm(dim=1, keepdim=True)).detach())
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6]])
    share, chosen = zero_shot(vectors, torch.eye(2), torch.tensor([0, 1, 0, 0]))
    assert share == 0.75
    assert chosen.tolist() == [0, 1, 1, 0]
