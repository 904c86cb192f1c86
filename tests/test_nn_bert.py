"""BERT equals transformers' in outputs and gradients; masking follows the paper."""

import pytest
import torch
import torch.nn.functional as F

import mmlearn as mm
from mmlearn.errors import DataError, ShapeError
from mmlearn.nn import Bert, BertConfig, BertForMaskedLM, mask_tokens
from mmlearn.nn.bert import IGNORE
from tests.lively import lively

SIZES = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
SIZES |= {"max_position_embeddings": 16, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CONFIG = BertConfig(50, d_model=24, n_heads=3, n_layers=2, d_ff=40, max_len=16)


def theirs(kind="BertModel", **changes):
    import transformers

    return lively(getattr(transformers, kind)(transformers.BertConfig(**SIZES | changes)))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 50, (3, 9), generator=generator)
    mask = torch.arange(9) < torch.tensor([[9], [6], [3]])
    segments = (torch.arange(9) > 4).long().expand(3, 9).contiguous()
    return tokens, mask, segments


def test_equal_to_bertmodel_with_padding_and_segments(tmp_path, batch):
    tokens, mask, segments = batch
    reference = theirs()
    reference.save_pretrained(tmp_path)
    model = Bert.from_pretrained(tmp_path)
    expected = reference(tokens, attention_mask=mask.long(), token_type_ids=segments)
    hidden = model(tokens, mask, segments)
    torch.testing.assert_close(hidden[mask], expected.last_hidden_state[mask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.pool(hidden), expected.pooler_output, atol=1e-5, rtol=1e-5)
    mm.matches(model, reference, tokens, map=Bert.own_state, select=lambda output: output.last_hidden_state)


def test_equal_to_bertformaskedlm_in_outputs_and_gradients(tmp_path, batch):
    reference = theirs("BertForMaskedLM")
    reference.save_pretrained(tmp_path)
    model = BertForMaskedLM.from_pretrained(tmp_path)
    mm.matches(model, reference, batch[0], map=BertForMaskedLM.own_state, select=lambda output: output.logits)


def test_equal_in_float64_to_ten_digits(tmp_path, batch):
    reference = theirs("BertForMaskedLM")
    reference.save_pretrained(tmp_path)
    model = BertForMaskedLM.from_pretrained(tmp_path).double()
    torch.testing.assert_close(model(batch[0]), reference.double()(batch[0]).logits, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForPreTraining"])
def test_the_encoder_reads_a_file_with_pretraining_heads_and_leaves_them(tmp_path, batch, kind):
    reference = theirs(kind)
    reference.save_pretrained(tmp_path)
    model = Bert.from_pretrained(tmp_path)
    assert model.config.pooler == (kind == "BertForPreTraining")
    expected = reference.bert(batch[0]).last_hidden_state
    torch.testing.assert_close(model(batch[0]), expected, atol=1e-5, rtol=1e-5)
    if kind == "BertForPreTraining":
        words = BertForMaskedLM.from_pretrained(tmp_path)(batch[0])
        torch.testing.assert_close(words, reference(batch[0]).prediction_logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [Bert, BertForMaskedLM])
def test_transformers_opens_what_we_save_with_equal_outputs(tmp_path, batch, kind):
    import transformers

    tokens, mask, segments = batch
    model = kind(CONFIG).eval()
    model.save_pretrained(tmp_path)
    name = "BertModel" if kind is Bert else kind.__name__
    output = getattr(transformers, name).from_pretrained(tmp_path).eval()(tokens, mask.long(), token_type_ids=segments)
    expected = output.last_hidden_state if kind is Bert else output.logits
    torch.testing.assert_close(model(tokens, mask, segments)[mask], expected[mask], atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing(batch):
    tokens, mask, _ = batch
    model = Bert(CONFIG).eval()
    alone = model(tokens[2:, :3])
    changed = tokens.masked_fill(~mask, 7)
    torch.testing.assert_close(model(tokens, mask)[2, :3], alone[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(changed, mask)[mask], model(tokens, mask)[mask])


def test_it_reads_to_both_sides_and_knows_the_order(batch):
    tokens = batch[0]
    model = Bert(CONFIG).eval()
    before = model(tokens)
    tokens = tokens.clone()
    tokens[:, 8] = 11
    assert not torch.allclose(model(tokens)[:, 0], before[:, 0], atol=1e-6)
    assert not torch.allclose(model(batch[0].flip(1)).flip(1), before, atol=1e-3)


def test_attention_maps_equal_those_of_transformers(batch):
    tokens, mask, _ = batch
    reference = theirs()
    reference.set_attn_implementation("eager")
    model = Bert(BertConfig(50, 24, 3, 2, d_ff=40, max_len=16, pooler=True)).eval()
    model.load_state_dict(Bert.own_state(reference.state_dict()), strict=False)
    expected = reference(tokens, mask.long(), output_attentions=True).attentions
    for mine, other in zip(model.attention_maps(tokens, mask), expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_the_published_sizes_have_the_published_number_of_weights():
    with torch.device("meta"):
        model = Bert(BertConfig(30522, 768, 12, 12, max_len=512, pooler=True))
    assert sum(parameter.numel() for parameter in model.parameters()) == 109_482_240


def test_masking_follows_the_paper():
    tokens = torch.randint(5, 30, (2000, 20), generator=torch.Generator().manual_seed(0))
    tokens[:, 0], tokens[:, 10] = 2, 3
    mask = torch.arange(20).expand(2000, 20) < 11
    generator = torch.Generator().manual_seed(1)
    inputs, labels = mask_tokens(tokens, mask, mask_id=4, vocab_size=30, generator=generator)
    asked = labels != IGNORE
    assert torch.equal(labels[asked], tokens[asked])
    assert not asked[:, [0, 10]].any()
    assert not asked[~mask].any()
    assert torch.equal(inputs[~asked], tokens[~asked])
    assert abs(asked[:, 1:10].float().mean().item() - 0.15) < 0.01
    assert abs((inputs[asked] == 4).float().mean().item() - 0.80) < 0.02
    assert abs((inputs[asked] == tokens[asked]).float().mean().item() - 0.10 - 0.1 / 25) < 0.02
    replaced = inputs[asked & (inputs != 4) & (inputs != tokens)]
    assert sorted(replaced.unique().tolist()) == list(range(5, 30))
    again = mask_tokens(tokens, mask, mask_id=4, vocab_size=30, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again[0], inputs)
    everything, _ = mask_tokens(tokens, mask, mask_id=4, vocab_size=30, probability=1.0)
    assert (everything[:, 1:10] == 4).float().mean() > 0.78


def test_masking_refuses_what_makes_no_sense(unchecked):
    tokens, mask = torch.full((1, 3), 6), torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(ShapeError, match="expected torch.bool"):
        mask_tokens(tokens, mask.long(), mask_id=4, vocab_size=9)
    with pytest.raises(ValueError, match="must lie above 0"):
        mask_tokens(tokens, mask, mask_id=4, vocab_size=9, probability=0.0)
    with pytest.raises(ValueError, match="no word that is not special"):
        mask_tokens(tokens, mask, mask_id=4, vocab_size=5)


def test_inputs_that_do_not_fit_are_refused(unchecked):
    model = Bert(CONFIG)
    with pytest.raises(DataError, match="token 50 at position 1 of sequence 0 is outside the vocabulary"):
        model(torch.tensor([[1, 50]]))
    with pytest.raises(DataError, match="segments go from 0 to 1"):
        model(torch.tensor([[1, 2]]), segments=torch.tensor([[0, 2]]))
    with pytest.raises(ShapeError, match="has 17 tokens, the model takes 16"):
        model(torch.ones(1, 17, dtype=torch.long))
    with pytest.raises(ShapeError, match="expected whole numbers"):
        model(torch.ones(1, 3))
    with pytest.raises(ShapeError, match="must be equal in shape"):
        model(torch.ones(1, 3, dtype=torch.long), segments=torch.ones(1, 2, dtype=torch.long))
    with pytest.raises(ShapeError, match="at least 1"):
        BertConfig(0)


def test_a_row_that_is_all_padding_stays_finite():
    mask = torch.tensor([[True, True, True], [False, False, False]])
    hidden = Bert(CONFIG)(torch.full((2, 3), 6), mask)
    assert hidden.isfinite().all()
    hidden.sum().backward()
    assert Bert(CONFIG)(torch.zeros(2, 0, dtype=torch.long)).shape == (2, 0, 24)


def test_one_batch_can_be_learned_by_heart():
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(20, 32, 4, 2, max_len=8))
    tokens, mask = torch.randint(5, 20, (8, 6)), torch.ones(8, 6, dtype=torch.bool)
    inputs, labels = mask_tokens(tokens, mask, mask_id=4, vocab_size=20, probability=0.3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        loss = F.cross_entropy(model(inputs, mask).flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
