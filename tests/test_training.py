"""The recipe: its loops learn, resume and stop as they should, and what it shipped is what the card says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.encoded import SecondStage
from retrieval.models.convcoca import ConvCoCa
from retrieval.models.encoder import Encoder
from retrieval.models.loading import load_model
from retrieval.models.tokens import TextTokenizer
from retrieval.models.weights import MINI, resolve, weights_sha256
from tests.cocas import small_sizes, train_tokenizer
from tests.conftest import picture
from training import fit as fitting
from training.checkpoint import CheckpointError, Diverged, save_checkpoint
from training.data import CaptionedImages, DataError, LabelledImages, augment, load_captioned, load_labelled, normalise
from training.evaluate import score_captions
from training.feed import Beside, Prototypes
from training.finetune import main as finetune
from training.fit import FitConfig, evaluate, fit
from training.mini import main as make_mini
from training.plot import plot_log
from training.reader import choose_text_weight, choose_weight, fused_recall
from training.teacher import Teacher

SIZES = small_sizes(320, 12, 1)
WORDS = [
    "a red dog",
    "two cats",
    "snow on a hill",
    "the blue car",
    "one old boat",
    "a man runs",
    "green grass",
    "at night",
]
CONFIG = FitConfig(
    sides=(32,) * 40, batch=8, peak_rate=4e-3, smallest_crop=0.9, caption=0.5, smoothing=0.0, ema=0.9, eval_side=32,
    eval_every=20, seed=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def handful() -> CaptionedImages:
    images = np.stack([np.asarray(picture(seed, 40, 40)) for seed in range(8)])
    return CaptionedImages(images=images, captions=tuple((word, f"{word} again") for word in WORDS))


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return train_tokenizer(WORDS, SIZES.sentence.vocab_size, SIZES.sentence.context_length)


def start() -> ConvCoCa:
    torch.manual_seed(0)
    return ConvCoCa(SIZES, folded=False)


def entries(work: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]


def test_a_handful_of_pictures_is_learnt_by_heart(
    handful: CaptionedImages, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    rows = np.random.default_rng(0).standard_normal((16, 24)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    teacher = Teacher(captions=tuple(rows.reshape(8, 2, 24)), classes=rows[:5])
    labelled = LabelledImages(images=handful.images[:4], labels=np.array([0, 1, 0, 1]), names=("dog", "cat"))
    classes = Prototypes(
        features=torch.rand(3, SIZES.image.width, generator=torch.Generator().manual_seed(0)),
        names=("boat", "car", "hill"),
    )
    beside = Beside(labelled=labelled, prototypes=classes, texts=("a boat on a hill", "a car at night"))
    config = replace(
        CONFIG, sides=(32,) * 120, keep_best=True, batch=10, labelled=2, prototypes=2, texts=2, soft=0.1, distil=0.5,
        shares=(("visual.trunk.", 0.5),), frozen=(4,) * 4 + (1,) * 116,
    )  # fmt: skip
    model = start()
    before = evaluate(model, tokenizer, handful, 32)
    best = fit(model, tokenizer, config, handful, handful, tmp_path, beside=beside, teacher=teacher)
    model.load_state_dict(best)
    to_image, to_text = evaluate(model, tokenizer, handful, 32)
    assert before[0].r1 < 0.5
    assert min(to_image.r1, to_text.r1) > 0.8
    log = entries(tmp_path)
    assert float(str(log[-1]["loss"])) < 0.6 * float(str(log[0]["loss"]))
    for part in ("caption", "language", "classes"):
        # An epoch is one batch of few pictures, whose loss jumps about.
        first, last = (np.mean([float(str(entry[part])) for entry in some]) for some in (log[:10], log[-30:]))
        assert last < 0.7 * first, part
    plot_log(tmp_path / "log.jsonl", tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_resumed_run_is_the_run_that_was_not_stopped(
    handful: CaptionedImages, tokenizer: TextTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, sides=(32,) * 6, eval_every=2, dropout=0.1, decoder_dropout=0.2)
    whole = fit(start(), tokenizer, config, handful, handful, tmp_path / "whole")
    save, count = save_checkpoint, 0

    def stop_after_three(*arguments: object) -> None:
        nonlocal count
        save(*arguments)  # type: ignore[arg-type]
        count += 1
        if count == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "save_checkpoint", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        fit(start(), tokenizer, config, handful, handful, tmp_path / "halves")
    monkeypatch.setattr(fitting, "save_checkpoint", save)
    resumed = fit(ConvCoCa(SIZES, folded=False), tokenizer, config, handful, handful, tmp_path / "halves")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_of_other_settings_is_refused(
    handful: CaptionedImages, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    config = replace(CONFIG, sides=(32,))
    fit(start(), tokenizer, config, handful, handful, tmp_path)
    with pytest.raises(CheckpointError, match=r"peak_rate=0\.004, this run has peak_rate=0\.1"):
        fit(start(), tokenizer, replace(config, peak_rate=0.1), handful, handful, tmp_path)


def test_a_loss_that_is_no_number_stops_with_its_step_and_keeps_the_checkpoint(
    handful: CaptionedImages, tokenizer: TextTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = fitting._losses
    calls = 0

    def fail_on_the_third(*arguments: object) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        parts = losses(*arguments)  # type: ignore[arg-type]
        return {**parts, "contrast": parts["contrast"] * float("nan")} if calls == 3 else parts

    monkeypatch.setattr(fitting, "_losses", fail_on_the_third)
    with pytest.raises(Diverged, match="nan at step 2; the last good checkpoint is"):
        fit(start(), tokenizer, replace(CONFIG, sides=(32,) * 4), handful, handful, tmp_path)
    assert all(torch.isfinite(value).all() for value in load_file(tmp_path / "fit.safetensors").values())


def test_whole_pictures_are_seen_in_training_as_in_use(mini: Encoder) -> None:
    photo = picture(4, 160, 160)
    ours = normalise(np.array(photo)[None], 192)[0].numpy()
    used = mini.preprocess(photo)
    assert ours.shape == used.shape
    assert float(np.abs(ours - used).mean()) < 0.02


def test_augmentation_repeats_with_its_seed_and_keeps_shape() -> None:
    images = np.stack([np.asarray(picture(seed, 48, 48)) for seed in range(6)])
    first = augment(images, 32, torch.Generator().manual_seed(1))
    assert first.shape == (6, 3, 32, 32)
    assert torch.equal(first, augment(images, 32, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, augment(images, 32, torch.Generator().manual_seed(2)))


def test_data_files_that_are_missing_or_partial_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        DataError, match=r"gone\.parquet: no such file; expected a Parquet table with the columns image"
    ):
        load_captioned(tmp_path / "gone.parquet", 32)
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "half.parquet")
    with pytest.raises(DataError, match="captions"):
        load_captioned(tmp_path / "half.parquet", 32)
    with pytest.raises(DataError, match="label"):
        load_labelled([tmp_path / "half.parquet"], 32)
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "half.parquet").read_bytes()[:100])
    with pytest.raises(DataError, match=r"cut\.parquet"):
        load_captioned(tmp_path / "cut.parquet", 32)
    assert make_mini(["--data", str(tmp_path), "--work", str(tmp_path / "work")]) == 1
    assert "flickr8k-train.parquet: no such file" in capsys.readouterr().err


def test_captions_are_scored_by_the_known_measure() -> None:
    references = [["A dog runs on the grass."], ["two cats", "two small cats sit on a wall"]]
    perfect = score_captions(["a dog runs on the grass", "two small cats sit on a wall"], references)
    assert (perfect["BLEU-4"], perfect["different"]) == (1.0, 2)
    # By hand: 9 of 12 words, 6 of 10 pairs, 3 of 8 triples and 2 of 6 longer runs; 12 words where 13 were wanted.
    some = score_captions(["a dog runs on the road", "two small dogs sit on walls"], references)
    expected = (9 / 12 * 6 / 10 * 3 / 8 * 2 / 6) ** 0.25 * np.exp(1 - 13 / 12)
    assert some["BLEU-4"] == pytest.approx(expected, abs=1e-4)


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    lines = ["path,caption"]
    for seed in range(12):
        picture(seed, 200, 150).save(tmp_path / f"{seed}.jpg")
        lines += [f"{seed}.jpg,{WORDS[seed % 8]} number {seed}", f"{seed}.jpg,{WORDS[seed % 8]}"]
    (tmp_path / "captions.csv").write_text("\n".join([*lines, "gone.jpg,nothing"]) + "\n")
    return tmp_path


def run_finetune(folder: Path, *extra: str) -> int:
    return finetune(
        ["--images", str(folder), "--captions", str(folder / "captions.csv"), "--output", str(folder / "tuned"), "--epochs",
         "2", "--batch", "6", "--device", "cpu", *extra]
    )  # fmt: skip


def test_mini_is_fine_tuned_on_a_folder_and_loads_again(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_finetune(own_folder, "--rate", "1e-3") == 0
    told = capsys.readouterr()
    assert "left out: gone.jpg" in told.err
    assert "text to image R@1/5/10 on 1 held-out pictures" in told.out
    tuned = Encoder.load(f"local-dir:{own_folder / 'tuned'}", "cpu", "fp32")
    before = Encoder.load("mini", "cpu", "fp32")
    photo = [picture(1, 200, 150)]
    assert float((tuned.encode_images(photo) * before.encode_images(photo)).sum()) < 0.9999
    assert tuned.spec.tokenizer == before.spec.tokenizer
    state = load_model(f"local-dir:{own_folder / 'tuned'}", "cpu", "fp32").model.state_dict()
    best = load_file(own_folder / "tuned" / "work" / "result.safetensors")
    assert all(torch.equal(state[name], value) for name, value in best.items())


def test_an_open_clip_model_is_fine_tuned_and_loads_again(
    own_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import open_clip
    from safetensors.torch import save_file

    source = tmp_path_factory.mktemp("source")
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8}
    shape = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
    pixels = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic", "resize_mode": "shortest"}
    (source / "open_clip_config.json").write_text(json.dumps({"model_cfg": shape, "preprocess_cfg": pixels}))
    torch.manual_seed(1)
    model = open_clip.create_model(f"local-dir:{source}", load_weights=False)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, source / "open_clip_model.safetensors"
    )
    assert run_finetune(own_folder, "--model", f"local-dir:{source}", "--rate", "1e-3") == 0
    tuned = Encoder.load(f"local-dir:{own_folder / 'tuned'}", "cpu", "fp32")
    assert tuned.spec.mean == (0.4, 0.5, 0.6)
    assert tuned.spec.weights_sha256 != weights_sha256(resolve(f"local-dir:{source}").weights)
    assert np.isfinite(tuned.encode_texts(["a dog"])).all()


@pytest.mark.parametrize(
    ("captions", "reason"),
    [("path,caption\nno.jpg,x\n", "0 of 1 pictures can be used"), ("a,b\n1,2\n", "no column for the image")],
)
def test_captions_that_cannot_be_used_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], captions: str, reason: str
) -> None:
    (tmp_path / "captions.csv").write_text(captions)
    assert run_finetune(tmp_path) == 1
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_the_shipped_weights_are_those_of_the_card() -> None:
    card = (MINI / "README.md").read_text("utf-8")
    named = re.findall(r"\b[0-9a-f]{64}\b", card)
    assert named == [weights_sha256(MINI / "model.safetensors")]
    assert sum(file.stat().st_size for file in MINI.iterdir()) <= 72_000_000
    state = load_file(MINI / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in state.values())
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float16}


def test_what_was_fitted_belongs_to_the_shipped_weights() -> None:
    fitted = json.loads((MINI / "reader.json").read_text("utf-8"))
    assert fitted["weights_sha256"] == weights_sha256(MINI / "model.safetensors")
    assert fitted["weighted"]["weight"] > 0
    assert all(curve["slope"] > 0 for curve in fitted["relevance"].values())


def test_reader_weights_are_found_by_what_they_do() -> None:
    """The second score knows the answer where the first is wrong: any weight that lets it win is right, none is not."""
    cosine = np.tile(np.array([0.3, 0.2, 0.1], np.float32), (8, 1))
    right = np.zeros((8, 3), bool)
    right[:, 1] = True
    likely = np.tile(np.array([-3.0, -1.0, -3.0], np.float32), (8, 1))
    scores = SecondStage(
        answers=np.zeros((8, 3), np.int64),
        cosine=cosine,
        likely=likely,
        prior=np.zeros((8, 3), np.float32),
        right=right,
    )
    assert fused_recall(scores, 0.0, 1.0).mean() == 0
    weight = choose_weight(scores, np.arange(8))
    assert weight > 0.05
    assert fused_recall(scores, weight, 1.0).mean() == 1
    common = replace(
        scores, likely=likely + np.array([0, 0, 9], np.float32), prior=likely * 0 + np.array([0, 0, 9], np.float32)
    )
    text_weight, share = choose_text_weight(common, np.arange(8))
    assert fused_recall(common, text_weight, share).mean() == 1
    assert share > 0.5
