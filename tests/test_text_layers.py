"""The text layers of `mini` beside open_clip's, with the same weights: the same names, and the same numbers."""

from __future__ import annotations

import subprocess
import sys

import torch
from open_clip.transformer import MultimodalTransformer, Transformer

from retrieval.models.text_layers import Blocks, KnownTokens, TextDecoder
from tests.conftest import ROOT

CONTEXT, VOCABULARY, WIDTH, HEADS, LAYERS = 12, 50, 32, 4, 2


def test_a_stack_that_looks_back_gives_what_open_clips_gives() -> None:
    ours = Blocks(WIDTH, HEADS, LAYERS, CONTEXT)
    theirs = Transformer(WIDTH, LAYERS, HEADS)
    theirs.load_state_dict(ours.state_dict())
    mask = torch.full((CONTEXT, CONTEXT), -torch.inf).triu_(1)
    x = torch.randn(3, CONTEXT, WIDTH, generator=torch.Generator().manual_seed(6))
    for dtype in (torch.float32, torch.bfloat16):
        ours.to(dtype).eval(), theirs.to(dtype).eval()
        with torch.inference_mode():
            for length in (CONTEXT, 5):
                part = x[:, :length].to(dtype)
                assert torch.equal(ours(part), theirs(part, attn_mask=mask[:length, :length]))


def test_a_decoder_gives_what_open_clips_gives() -> None:
    ours = TextDecoder(context_length=CONTEXT, width=WIDTH, heads=HEADS, layers=LAYERS, output_dim=VOCABULARY)
    theirs = MultimodalTransformer(
        context_length=CONTEXT, width=WIDTH, heads=HEADS, layers=LAYERS, output_dim=VOCABULARY
    )
    theirs.load_state_dict(ours.state_dict())
    rng = torch.Generator().manual_seed(5)
    tokens, states = torch.randn(3, 7, WIDTH, generator=rng), torch.randn(3, CONTEXT, WIDTH, generator=rng)
    for dtype in (torch.float32, torch.bfloat16):
        ours.to(dtype).eval(), theirs.to(dtype).eval()
        with torch.inference_mode():
            for length in (CONTEXT, 4):
                right = theirs(tokens.to(dtype), states[:, :length].to(dtype))
                assert torch.equal(ours(tokens.to(dtype), states[:, :length].to(dtype)), right)


def test_tokens_that_are_not_known_are_the_unknown_one() -> None:
    embedding = KnownTokens(10, 4)
    assert torch.equal(embedding(torch.tensor([[9, 10, 500]])), embedding(torch.tensor([[9, 1, 1]])))


def test_the_embedded_model_is_loaded_without_open_clip() -> None:
    code = (
        "import sys\nfrom retrieval.models.loading import load_model\nload_model('mini', 'cpu', 'fp32')\n"
        "sys.exit('open_clip' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
