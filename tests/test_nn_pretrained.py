"""Weights of others are read only when they fit, and every refusal names the file or the tensor."""

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmlearn.errors import CheckpointError
from mmlearn.nn import Bert, BertConfig, ViT, ViTConfig
from mmlearn.nn.pretrained import locate

SMALL = ViTConfig(image_size=8, patch_size=4, d_model=8, n_heads=2, n_layers=2, d_ff=16, n_classes=3)


@pytest.fixture
def folder(tmp_path):
    ViT(SMALL).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder, change):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def test_what_is_saved_is_read_back_equal(folder):
    torch.manual_seed(1)
    model = ViT(SMALL).eval()
    model.save_pretrained(folder)
    again = ViT.from_pretrained(folder)
    assert again.config == SMALL
    assert not again.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_weights_in_several_files_are_read_through_their_index(folder):
    whole = ViT.from_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, part in parts.items():
        save_file({name: state[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    assert torch.equal(ViT.from_pretrained(folder).head.weight, whole.head.weight)
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder.parent / "elsewhere.safetensors")
    index["weight_map"][names[0]] = "../elsewhere.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="elsewhere.safetensors', which is no file of the folder"):
        ViT.from_pretrained(folder)
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a readable index"):
        ViT.from_pretrained(folder)


def test_half_precision_is_read_as_float32(folder):
    def halve(state):
        for name in state:
            state[name] = state[name].half()

    change_weights(folder, halve)
    assert ViT.from_pretrained(folder).head.weight.dtype == torch.float32


def test_gamma_and_beta_of_the_first_berts_are_weight_and_bias(tmp_path):
    model = Bert(BertConfig(10, d_model=8, n_heads=2, n_layers=1, d_ff=16, max_len=4))
    torch.nn.init.normal_(model.embedding.norm.weight)
    model.save_pretrained(tmp_path)

    def rename(state):
        for name in [n for n in state if "LayerNorm" in n]:
            old = name.replace(".weight", ".gamma").replace(".bias", ".beta")
            state[old] = state.pop(name)

    change_weights(tmp_path, rename)
    assert torch.equal(Bert.from_pretrained(tmp_path).embedding.norm.weight, model.embedding.norm.weight)


@pytest.mark.parametrize("cut", [4, 100, -1, -300])
def test_a_truncated_file_is_refused_by_name(folder, cut):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is no whole safetensors file"):
        ViT.from_pretrained(folder)


def test_a_header_that_promises_terabytes_is_refused_without_reading(folder):
    header = json.dumps(
        {"classifier.weight": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
    )
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
    with pytest.raises(CheckpointError, match="no whole safetensors file"):
        ViT.from_pretrained(folder)


def test_missing_and_unknown_tensors_are_named(folder):
    change_weights(folder, lambda state: state.pop("vit.layernorm.weight"))
    with pytest.raises(CheckpointError, match=r"lacks transformer\.norm\.weight: it is another model, or only a part"):
        ViT.from_pretrained(folder)
    change_weights(folder, lambda state: state.update({"vit.layernorm.weight": torch.ones(8), "who": torch.ones(1)}))
    with pytest.raises(CheckpointError, match="holds the unknown who"):
        ViT.from_pretrained(folder)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder):
    change_weights(folder, lambda state: state.update({"vit.embeddings.cls_token": torch.ones(1, 1, 9)}))
    with pytest.raises(
        CheckpointError, match=r"cls_token in .*shape \(1, 1, 9\), but config.json asks for \(1, 1, 8\)"
    ):
        ViT.from_pretrained(folder)


def test_not_a_number_is_refused(folder):
    change_weights(folder, lambda state: state["classifier.bias"].fill_(torch.nan))
    with pytest.raises(CheckpointError, match="classifier.bias in .* holds NaN or infinity"):
        ViT.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "a model of type 'bert', expected 'vit'"),
        ({"hidden_size": 10**12}, "hidden_size is 1000000000000, expected a whole number from 1 to 1,000,000"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000"),
        ({"hidden_size": "8"}, "hidden_size is '8'"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"num_attention_heads": 3}, "d_model=8 cannot be cut into n_heads=3"),
        ({"hidden_act": "swish"}, "hidden_act is 'swish', expected one of gelu"),
        ({"layer_norm_eps": "tiny"}, "could not convert string to float"),
        ({"qkv_bias": False}, "qkv_bias is false"),
        ({"intermediate_size": 17}, r"has the shape \(16, 8\), but config.json asks for \(17, 8\)"),
        ({"num_hidden_layers": 3}, r"lacks transformer\.layers\.2"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_with_its_reason(folder, changes, message):
    change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        ViT.from_pretrained(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000])
def test_a_broken_configuration_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="config.json|of type None"):
        ViT.from_pretrained(folder)


def test_a_pickle_is_refused_with_what_to_do(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin, a pickle, .* write it with save_pretrained"):
        ViT.from_pretrained(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="holds no model.safetensors"):
        ViT.from_pretrained(folder)


def test_saving_anew_leaves_no_half_written_file(folder):
    ViT(SMALL).save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_name_without_a_folder_asks_the_hub_and_says_so_where_that_fails(monkeypatch, folder):
    asked = []

    def snapshot(name, **options):
        asked.append(name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert ViT.from_pretrained("google/vit-base-patch16-224").config == SMALL
    assert asked == ["google/vit-base-patch16-224"]
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: 1 / 0)
    with pytest.raises(CheckpointError, match=r"no folder bert-base-uncased here, and the Hugging Face Hub did not"):
        locate("bert-base-uncased")
    with pytest.raises(CheckpointError, match="there is no folder /no/such/place"):
        locate("/no/such/place")


def test_a_folder_that_vanishes_is_named(folder):
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="there is no folder"):
        ViT.from_pretrained(folder)
