"""The text layers of `mini` beside open_clip's, with the same weights: the same names, and the same numbers."""

from __future__ import annotations

import subprocess
import sys

import torch
from open_clip.transformer import MultimodalTransformer, TextTransformer

from retrieval.models.text_layers import TextDecoder, TextTower
from tests.conftest import ROOT

CONTEXT, VOCABULARY, WIDTH, HEADS, LAYERS, DIM = 12, 50, 32, 4, 2, 16


def ids() -> torch.Tensor:
    """Texts of several lengths, one with the padding's id inside it."""
    rng = torch.Generator().manual_seed(4)
    texts = torch.randint(1, VOCABULARY, (5, CONTEXT), generator=rng)
    for row, length in enumerate((CONTEXT, 7, 1, 3, 9)):
        texts[row, length:] = 0
    texts[4, 4] = 0
    return texts


def test_a_text_tower_gives_what_open_clips_gives() -> None:
    ours = TextTower(
        context_length=CONTEXT, vocab_size=VOCABULARY, width=WIDTH, heads=HEADS, layers=LAYERS, output_dim=DIM, pad_id=0
    )
    theirs = TextTransformer(
        context_length=CONTEXT, vocab_size=VOCABULARY, width=WIDTH, heads=HEADS, layers=LAYERS, output_dim=DIM,
        embed_cls=True, correct_cls_mask=True, pad_id=0, output_tokens=True,
    )  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    for dtype in (torch.float32, torch.bfloat16):
        ours.to(dtype).eval(), theirs.to(dtype).eval()
        with torch.inference_mode():
            for length in (CONTEXT, 5):
                for mine, right in zip(ours(ids()[:, :length]), theirs(ids()[:, :length]), strict=True):
                    assert torch.equal(mine, right)


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


def test_the_embedded_model_is_loaded_without_open_clip() -> None:
    code = (
        "import sys\nfrom retrieval.models.loading import load_model\nload_model('mini', 'cpu', 'fp32')\n"
        "sys.exit('open_clip' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
