"""Metrics against cases computed by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from benchmarks.metrics import Ranks, rank, ranks_both_ways, recall_both_ways
from tests.stores import unit_rows


def test_ranks_by_hand() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.1], [0.1, 0.2, 0.3, 0.4]], np.float32)
    right = np.array([[False, True, False, True], [True, False, False, False]])
    found = rank(scores, right)
    assert found.first.tolist() == [2, 4]
    assert found.precision.tolist() == [pytest.approx((1 / 2 + 2 / 4) / 2), pytest.approx(1 / 4)]
    recall = found.recall()
    assert (recall.r1, recall.r5, recall.median_rank) == (0.0, 1.0, 3.0)


def test_ties_count_against_the_model() -> None:
    scores = np.full((1, 20), 0.5, np.float32)
    right = np.zeros((1, 20), bool)
    right[0, 0] = True
    assert rank(scores, right).first.tolist() == [20]


def test_fewer_answers_than_k_and_queries_without_a_right_one() -> None:
    scores = np.array([[0.3, 0.4], [0.4, 0.3]], np.float32)
    found = rank(scores, np.array([[True, False], [False, False]]))
    assert found.first.tolist() == [2]
    assert found.recall().r10 == 1.0
    with pytest.raises(ValueError, match="no query"):
        rank(scores, np.zeros((2, 2), bool)).recall()


def test_second_scores_order_the_first_answers_only() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6]], np.float32)
    right = np.array([[False, False, True, False]])
    assert rank(scores, right, np.array([[0.1, 0.2, 0.3]], np.float32)).first.tolist() == [1]
    assert rank(scores, right, np.array([[0.1, 0.2]], np.float32)).first.tolist() == [3]
    assert rank(scores, right, np.array([[0.3, 0.3, 0.3]], np.float32)).first.tolist() == [3]


def test_several_captions_an_image_by_karpathys_protocol() -> None:
    images, texts = unit_rows(40, 8, 1), unit_rows(200, 8, 2)
    owner = np.repeat(np.arange(40), 5)
    to_image, to_text = recall_both_ways(images, texts, owner)
    scores = texts @ images.T
    assert to_image.r5 == pytest.approx(top_k_accuracy_score(owner, scores, k=5, labels=np.arange(40)))
    best = [np.flatnonzero(owner[np.argsort(-scores[:, image])] == image)[0] + 1 for image in range(40)]
    assert to_text.r10 == pytest.approx(np.mean(np.array(best) <= 10))
    assert to_text.median_rank == np.median(best)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_change_nothing(chunk: int) -> None:
    images, texts, owner = unit_rows(30, 8, 1), unit_rows(90, 8, 2), np.repeat(np.arange(30), 3)
    whole, parts = ranks_both_ways(images, texts, owner), ranks_both_ways(images, texts, owner, chunk=chunk)
    for one, other in zip(whole, parts, strict=True):
        assert np.array_equal(one.first, other.first)
        assert np.array_equal(one.precision, other.precision)


def test_confidence_holds_the_mean_and_shrinks_with_more_queries() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.integers(1, 30, 100), rng.integers(1, 30, 10_000)
    narrow = Ranks(first=many, precision=np.zeros(10_000)).confidence(200)["R@10"]
    wide = Ranks(first=few, precision=np.zeros(100)).confidence(200)["R@10"]
    assert narrow[0] < (many <= 10).mean() < narrow[1]
    assert wide[1] - wide[0] > 5 * (narrow[1] - narrow[0])


def test_a_few_queries_that_are_all_right_leave_room_for_doubt() -> None:
    """Every round of a bootstrap over them says 100 %."""
    first = np.array([1, 1, 1, 2, 1, 3, 1, 1])
    sure = Ranks(first=first, precision=np.zeros(8)).confidence()
    # Exact, by Clopper and Pearson: 0.975 of all samples of eight from 63 % have a wrong one among them.
    assert sure["R@5"][0] == pytest.approx(0.6306, abs=1e-4) and sure["R@5"][1] == 1
    assert 0 < sure["R@1"][0] < 0.75 < sure["R@1"][1] <= 1
    never = Ranks(first=np.full(8, 50), precision=np.zeros(8)).confidence()
    assert never["R@10"][0] == 0 and never["R@10"][1] == pytest.approx(1 - 0.6306, abs=1e-4)
