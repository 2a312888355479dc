"""Long pictures: their ends are found, and each is one hit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from media.views import views_of
from retrieval.store.manifest import read_manifest
from tests.conftest import picture
from tests.libraries import rows_of, run


@pytest.mark.parametrize(
    ("size", "count"), [((100, 100), 1), ((200, 100), 1), ((201, 100), 3), ((100, 401), 5), ((9000, 10), 8)]
)
def test_views_cover_a_long_picture_and_leave_others_alone(size: tuple[int, int], count: int) -> None:
    ramp = np.zeros((size[1], size[0], 3), np.uint8)
    views = views_of(Image.fromarray(ramp))
    assert len(views) == count
    if count > 1:
        assert {view.size for view in views} == {(min(size), min(size))}
    marked = Image.fromarray(ramp)
    marked.putpixel((size[0] - 1, size[1] - 1), (255, 0, 0))
    assert np.asarray(views_of(marked)[-1])[-1, -1, 0] == 255


def test_the_ends_of_a_panorama_count_and_it_is_one_item(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    ends = Image.new("RGB", (400, 100), "white")
    ends.paste(picture(3, 100, 100), (300, 0))
    ends.save(media / "a.png")
    Image.new("RGB", (400, 100), "white").save(media / "b.png")
    picture(4).save(media / "c.png")
    run(tmp_path / "index", media)
    rows = rows_of(tmp_path / "index")
    assert len(rows) == read_manifest(tmp_path / "index").counts.files == 3
    vectors = {Path(row[0]).name: np.array(row[5]) for row in rows}
    assert abs(np.linalg.norm(vectors["a.png"]) - 1) < 2e-3
    assert not np.allclose(vectors["a.png"], vectors["b.png"], atol=1e-2)
