"""The multimodal model: equal with either library's parts, and each fusion does what its name says."""

import json
import re

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import mmlearn as mm
from mmlearn.errors import CheckpointError, ShapeError
from mmlearn.models.fusion import FUSIONS, FusionConfig, MultimodalModel, VisionModel, masked_word_loss, matching_loss
from mmlearn.nn import BertConfig, ViTConfig
from tests.lively import lively

VISION = ViTConfig(16, 4, 16, 2, 2, d_ff=32)
LANGUAGE = BertConfig(30, 24, 2, 2, d_ff=32, max_len=12)


def config(fusion="merged", **changes):
    return FusionConfig(**{"fusion": fusion, "d_model": 16, "n_heads": 2, "n_layers": 2, "n_answers": 5} | changes)


def build(fusion="merged", **changes):
    torch.manual_seed(0)
    return MultimodalModel.build(VISION, LANGUAGE, config(fusion, **changes)).eval()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 3, 16, 16, generator=generator)
    tokens = torch.randint(5, 30, (3, 7), generator=generator)
    return images, (tokens, torch.arange(7) < torch.tensor([[7], [5], [3]]))


@pytest.fixture
def parts(tmp_path):
    import transformers

    vit = transformers.ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    vit.image_size, vit.patch_size = 16, 4
    bert = transformers.BertConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    bert.vocab_size, bert.max_position_embeddings = 30, 12
    for model, name in ((transformers.ViTModel(vit), "vit"), (transformers.BertModel(bert), "bert")):
        lively(model).save_pretrained(tmp_path / name)
    return tmp_path / "vit", tmp_path / "bert"


@pytest.mark.parametrize("fusion", FUSIONS)
def test_both_libraries_give_equal_outputs_and_gradients(parts, batch, fusion):
    images, text = batch
    own = MultimodalModel.from_parts(*parts, config(fusion)).eval()
    theirs = MultimodalModel.from_parts(*parts, config(fusion), library="transformers").eval()
    encoders = ("vision.", "language.")
    theirs.load_state_dict({n: v for n, v in own.state_dict().items() if not n.startswith(encoders)}, strict=False)
    kept = text[1]
    mine, other = (lambda pixels, model=model: model(pixels, text).words[kept] for model in (own, theirs))
    mm.matches(mine, other, images, copy=False)
    for head in ("matching", "guess_words", "answer"):
        mine, other = (getattr(model, head)(model(images, text)) for model in (own, theirs))
        mine, other = (mine[kept], other[kept]) if head == "guess_words" else (mine, other)
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_padding_changes_nothing(batch, fusion):
    images, (tokens, mask) = batch
    model = build(fusion)
    changed = model(images, (tokens.masked_fill(~mask, 9), mask))
    torch.testing.assert_close(changed.words[mask], model(images, (tokens, mask)).words[mask])
    alone = model(images[2:], (tokens[2:, :3], mask[2:, :3]))
    torch.testing.assert_close(alone.pooled, changed.pooled[2:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_word_sees_the_picture_and_rows_do_not_see_each_other(batch, fusion):
    images, text = batch
    model = build(fusion)
    before, after = model(images, text), model(images.roll(1, dims=0), text)
    assert ((before.words - after.words).abs().amax(dim=-1) > 1e-5).all()
    other = images.clone()
    other[1:] += 1
    torch.testing.assert_close(model(other, text).words[0], before.words[0])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_several_texts_a_picture_are_as_good_as_the_picture_several_times(batch, fusion):
    images, (tokens, mask) = batch
    model = build(fusion)
    tokens, mask = torch.cat([tokens, tokens.flip(1)]), mask.repeat(2, 1)
    several = model(images, (tokens, mask))
    one_each = model(images.repeat_interleave(2, dim=0), (tokens, mask))
    torch.testing.assert_close(several.words[mask], one_each.words[mask])
    with pytest.raises(ShapeError, match="3 pictures but 4 texts"):
        model(images, (tokens[:4], mask[:4]))


def test_only_attention_lets_a_word_choose_where_to_look(batch):
    """Patches behind the class token reach the words through attention, and not through concatenation."""
    images, text = batch
    for fusion, reaches in (("concatenation", False), ("merged", True), ("cross", True)):
        model, seen = build(fusion), []
        model.see.register_forward_hook(lambda module, _, output, seen=seen: seen.append(output))
        score = model.matching(model(images, text)).sum()
        (gradient,) = torch.autograd.grad(score, seen)
        assert bool(gradient[:, 1:].abs().sum() > 0) is reaches, fusion
        assert gradient[:, 0].abs().sum() > 0


def test_a_saved_model_is_read_back_equal_and_its_parts_open_in_transformers(tmp_path, batch):
    import transformers

    images, text = batch
    model = build("cross")
    model.save_pretrained(tmp_path)
    again = MultimodalModel.from_pretrained(tmp_path)
    torch.testing.assert_close(again(images, text).words, model(images, text).words)
    assert again.config == model.config
    vit = transformers.ViTModel.from_pretrained(tmp_path / "vision").eval()
    torch.testing.assert_close(vit(images).last_hidden_state, model.vision.tokens(images), atol=1e-5, rtol=1e-5)
    bert = transformers.BertModel.from_pretrained(tmp_path / "language").eval()
    torch.testing.assert_close(
        bert(text[0], text[1].long()).last_hidden_state[text[1]], model.language(*text)[text[1]], atol=1e-5, rtol=1e-5
    )
    theirs = MultimodalModel.from_pretrained(tmp_path, library="transformers")
    torch.testing.assert_close(theirs(images, text).pooled, model(images, text).pooled, atol=1e-5, rtol=1e-5)
    theirs.save_pretrained(tmp_path / "again")
    torch.testing.assert_close(
        MultimodalModel.from_pretrained(tmp_path / "again")(images, text).pooled,
        model(images, text).pooled,
        atol=1e-5,
        rtol=1e-5,
    )


def test_eyes_that_transformers_does_not_have_are_kept_under_our_names(tmp_path, batch):
    import dataclasses

    images, text = batch
    torch.manual_seed(0)
    eyes = dataclasses.replace(VISION, stem="convolutions", pool="mean")
    model = MultimodalModel.build(eyes, LANGUAGE, config("merged"))
    model(images, text)  # the stem's running means move
    model.eval().save_pretrained(tmp_path)
    again = MultimodalModel.from_pretrained(tmp_path)
    torch.testing.assert_close(again(images, text).words, model(images, text).words)
    again.save_pretrained(tmp_path / "again")
    twice = MultimodalModel.from_pretrained(tmp_path / "again")
    torch.testing.assert_close(twice(images, text).words, model(images, text).words)
    with pytest.raises(CheckpointError, match="'mmlearn-vit', expected 'vit'"):
        MultimodalModel.from_pretrained(tmp_path, library="transformers")
    described = json.loads((tmp_path / "vision" / "config.json").read_text())
    (tmp_path / "vision" / "config.json").write_text(json.dumps(described | {"n_heads": 3}))
    with pytest.raises(CheckpointError, match="config.json cannot be used"):
        MultimodalModel.from_pretrained(tmp_path)


def test_broken_folders_are_refused_by_name(tmp_path):
    build().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({n: v for n, v in state.items() if n != "see.bias"}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="has another see.bias than its config.json says"):
        MultimodalModel.from_pretrained(tmp_path)
    save_file(state | {"see.bias": torch.full((16,), torch.inf)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="see.bias in .* holds NaN or infinity"):
        MultimodalModel.from_pretrained(tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(described | {"fusion": "magic"}))
    with pytest.raises(CheckpointError, match="fusion='magic': use one of concatenation, merged, cross"):
        MultimodalModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(described | {"colour": 1}))
    with pytest.raises(CheckpointError, match="colour"):
        MultimodalModel.from_pretrained(tmp_path)


def test_a_part_that_is_missing_is_named_by_either_library(parts):
    for library in ("mmlearn", "transformers"):
        with pytest.raises(CheckpointError, match="nowhere"):
            MultimodalModel.from_parts(parts[0].parent / "nowhere", parts[1], config(), library=library)
    state = load_file(parts[1] / "model.safetensors")
    lost = next(name for name in state if name.endswith("key.weight"))
    save_file({n: v for n, v in state.items() if n != lost}, parts[1] / "model.safetensors", metadata={"format": "pt"})
    for library in ("mmlearn", "transformers"):
        with pytest.raises(CheckpointError, match="lacks .*key.weight|lacks .*k_proj.weight"):
            MultimodalModel.from_parts(*parts, config(), library=library)
    with pytest.raises(ValueError, match="library='keras'"):
        MultimodalModel.from_parts(*parts, config(), library="keras")


@pytest.mark.parametrize(("last_layers", "layers"), [(0, 0), (1, 1), (2, 2)])
def test_encoders_can_be_frozen_partly_or_whole(batch, last_layers, layers):
    model = build().train_encoders(last_layers, last_layers)
    model(*batch).pooled.sum().backward()
    for encoder in (model.vision, model.language):
        learning = [any(p.grad is not None for p in layer.parameters()) for layer in encoder.layers()]
        assert learning == [False] * (2 - layers) + [True] * layers
    assert model.language.bert.embedding.token.weight.grad is None
    assert model.see.weight.grad is not None
    assert all(p.requires_grad for p in model.train_encoders(None, None).parameters())


def test_what_is_frozen_does_not_change_while_the_rest_learns(batch):
    import dataclasses

    images, text = batch
    eyes = dataclasses.replace(VISION, stem="convolutions", dropout=0.5)
    model = MultimodalModel.build(eyes, dataclasses.replace(LANGUAGE, dropout=0.5), config())
    model.train().train_encoders(vision=0, language=1)
    before = {name: value.clone() for name, value in model.vision.state_dict().items()}
    seen = model.vision.tokens(images)
    torch.testing.assert_close(model.vision.tokens(images), seen)  # no dropout
    model(images, text)
    for name, value in model.vision.state_dict().items():
        assert torch.equal(value, before[name]), name
    bert = model.language.bert
    assert not bert.embedding.training
    assert [layer.training for layer in bert.transformer.layers] == [False, True]
    assert model.train_encoders(None, None).vision.training
    assert not model.eval().join.training


def test_a_new_answer_head_keeps_the_rest(batch):
    model = build(n_answers=0)
    with pytest.raises(ShapeError, match=r"with_answers\(n\)"):
        model.answer(model(*batch))
    tuned = model.with_answers(7)
    assert tuned.answer(tuned(*batch)).shape == (3, 7)
    torch.testing.assert_close(tuned.eval()(*batch).pooled, model(*batch).pooled)
    assert tuned.vision is model.vision


def test_losses():
    logits, together = torch.tensor([2.0, -1.0]), torch.tensor([True, False])
    expected = -(torch.sigmoid(logits[0]).log() + torch.sigmoid(-logits[1]).log()) / 2
    torch.testing.assert_close(matching_loss(logits, together), expected)
    scores, labels = torch.randn(2, 3, 4), torch.tensor([[1, -100, -100], [-100, 2, -100]])
    picked = torch.stack([scores[0, 0].log_softmax(-1)[1], scores[1, 1].log_softmax(-1)[2]])
    torch.testing.assert_close(masked_word_loss(scores, labels), -picked.mean())
    assert masked_word_loss(scores, torch.full((2, 3), -100)) == 0
    torch.testing.assert_close(
        masked_word_loss(scores, labels), F.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=-100)
    )


def test_numbers_that_do_not_fit_are_refused(unchecked, batch):
    images, text = batch
    with pytest.raises(ShapeError, match="2 pictures but 3 texts"):
        build()(images[:2], text)
    with pytest.raises(ShapeError, match="3 pictures but 2 texts"):
        build()(images, tuple(part[:2] for part in text))
    with pytest.raises(ValueError, match="fusion='sum'"):
        FusionConfig("sum")
    with pytest.raises(ShapeError, match="cannot be cut into"):
        FusionConfig(d_model=10, n_heads=3)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_one_batch_can_be_learned_by_heart(batch, fusion):
    images, text = batch
    model = build(fusion).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        fused = model(images, text)
        loss = F.cross_entropy(model.answer(fused), torch.tensor([0, 3, 4]))
        loss = loss + matching_loss(model.matching(fused), torch.tensor([True, False, True]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize("broken", [b"\xff{", b"[]", b'{"model_type": "mmlearn-vit'])
def test_eyes_whose_config_cannot_be_read_are_refused(tmp_path, broken):
    (tmp_path / "config.json").write_bytes(broken)
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path))):
        VisionModel.from_pretrained(tmp_path)
