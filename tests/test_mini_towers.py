"""The towers of `mini` beside those that their weights come from, with the same weights: the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from tokenizers import Tokenizer
from torch import nn

from retrieval.models.efficientnet import EfficientNet, EfficientNetConfig, folded_state
from retrieval.models.minilm import MiniLM, MiniLMConfig, from_bert
from retrieval.models.tokens import TextTokenizer
from training.starts import ImageNetStart, image_start, prototypes, teacher_folder, text_start
from training.vocabulary import prune_tokenizer

CAPTIONS = ["A dog runs on the grass.", "two dogs, one cat", "An espresso at a café", "a dog in snow"]


@pytest.fixture(scope="module")
def start() -> ImageNetStart:
    return image_start()


def network(start: ImageNetStart) -> EfficientNet:
    built = EfficientNet(EfficientNetConfig(), folded=False)
    built.load_state_dict(start.state)
    return built.eval()


@pytest.mark.parametrize("side", [64, 96, 100])
def test_the_image_tower_is_timms_with_the_published_weights_and_stays_so_folded(
    start: ImageNetStart, side: int
) -> None:
    ours = network(start)
    theirs = timm.create_model("tf_efficientnet_lite2", num_classes=0, global_pool="").eval()
    state = theirs.state_dict()
    theirs.load_state_dict(dict(zip(state, start.state.values(), strict=True)))
    folded = EfficientNet(EfficientNetConfig()).eval()
    folded.load_state_dict(folded_state(ours))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.inference_mode():
        wanted = theirs(pixels)
        assert float((ours(pixels) - wanted).abs().max()) < 1e-4
        assert float((folded(pixels) - wanted).abs().max()) < 1e-4
    assert float(wanted.std()) > 0.1


def test_frozen_parts_and_statistics_do_not_change_in_training(start: ImageNetStart) -> None:
    net = network(start)
    net.frozen = 3
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torch.autograd.backward(net(torch.rand(2, 3, 64, 64)).sum())
    with_gradient = {
        name.split(".")[0] + name.split(".")[1] for name, p in net.named_parameters() if p.grad is not None
    }
    assert with_gradient == {"stages2", "stages3", "stages4", "stages5", "stages6", "headconv", "headnorm"}
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_prototypes_are_what_the_classifier_takes_for_their_class(start: ImageNetStart) -> None:
    rng = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        features = network(start)(torch.rand(16, 3, 64, 64, generator=rng) * 2 - 1).mean((2, 3))
    made = prototypes(start, features)
    assert made.shape == (1000, 1280)
    assert float(made.min()) >= 0
    right = ((made - features.mean(0)) @ start.weights.T).argmax(1) == torch.arange(1000)
    assert float(right.float().mean()) > 0.95
    assert start.names[281] == "tabby"
    assert start.names[967] == "espresso"


def test_the_sentence_encoder_is_a_bert_with_other_names() -> None:
    from transformers import BertConfig, BertModel

    sizes = MiniLMConfig(vocab_size=60, context_length=10, width=32, heads=4, layers=2, inner=48)
    torch.manual_seed(3)
    bert = BertModel(
        BertConfig(
            vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
            max_position_embeddings=20,
        ),
        add_pooling_layer=False,
    )  # fmt: skip
    bert.train(False)
    kept = torch.tensor([0, *range(5, 59)])
    ours = MiniLM(MiniLMConfig(**{**vars(sizes), "vocab_size": len(kept)})).eval()
    ours.load_state_dict(from_bert(bert.state_dict(), kept, 10))
    ids = torch.randint(1, len(kept), (4, 10), generator=torch.Generator().manual_seed(1))
    for row, length in enumerate((10, 3, 1, 7)):
        ids[row, length:] = 0
    with torch.inference_mode():
        states = bert(kept[ids], attention_mask=(ids != 0).long()).last_hidden_state
        weight = (ids != 0).float()[..., None]
        wanted = (states * weight).sum(1) / weight.sum(1)
        assert float((ours(ids) - wanted).abs().max()) < 1e-5
        # What is behind the last word makes no difference.
        assert float((ours(ids[1:3, :3]) - wanted[1:3]).abs().max()) < 1e-5


def test_a_pruned_vocabulary_reads_captions_as_the_whole_one_does(tmp_path: Path) -> None:
    source = teacher_folder() / "tokenizer.json"
    whole = Tokenizer.from_file(str(source))
    whole.no_padding()
    tokenizer, old = prune_tokenizer(source, CAPTIONS, ["baboon"], 12_000, 300, 16)
    assert old.shape == (12_000,)
    assert len(np.unique(old)) == 12_000
    rows = tokenizer.encode(CAPTIONS)
    for caption, row in zip(CAPTIONS, rows, strict=True):
        assert old[row[row != 0]].tolist() == whole.encode(caption.lower()).ids
    assert rows.max() < 300, "the words of captions come first"
    assert tokenizer.decode(rows[0].tolist()) == "a dog runs on the grass."
    assert tokenizer.knows("baboon") and tokenizer.knows("espresso") and tokenizer.knows("a house")
    assert not any(tokenizer.knows(word) for word in ("asdfgh", "blorft", "flumpish wug", "gibbon"))
    tokenizer.save(tmp_path)
    again = TextTokenizer.open(tmp_path)
    assert again.knows("baboon") and not again.knows("flumpish")
    state = text_start(old, 16)
    assert state["words.weight"].shape == (12_000, 384)
    assert state["positions"].shape == (16, 384)
    assert prune_tokenizer(source, CAPTIONS, ["baboon"], 12_000, 300, 16)[1].tolist() == old.tolist()
