"""Previews of videos that a browser does not play: the frames of their moment, with H.264 and AAC, from every kind of film."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from benchmarks.synthetic_videos import VideoFormat
from media.child import module_command, module_environment
from media.cutting import cut
from media.errors import MediaError
from media.preview import LONGEST, write_preview
from media.types import Place
from retrieval.models.encoder import Encoder
from tests.browsers import tab_of
from tests.conftest import build, picture
from tests.films import film, rotated
from tests.servers import serving
from tests.test_cutting import FILMS, RATE, How, shown, write


def codecs(file: Path) -> list[str]:
    with av.open(os.fspath(file)) as opened:
        return sorted(stream.codec_context.name for stream in opened.streams if stream.codec_context is not None)


@pytest.mark.parametrize("name", FILMS)
def test_a_preview_has_the_frames_of_its_moment(name: str, tmp_path: Path) -> None:
    how = FILMS[name]
    source = write(tmp_path / f"film{how.suffix}", how)
    for first, stop in ((30, 60), (41, 77), (95, 120)):
        target = tmp_path / "preview.mp4"
        write_preview(str(source), first / RATE, stop / RATE, target)
        numbers, times, duration = shown(target)
        assert numbers == list(range(first, stop)), (name, first)
        assert times == pytest.approx([n / RATE for n in range(stop - first)], abs=0.06)
        assert duration == pytest.approx((stop - first) / RATE, abs=0.12)
        assert codecs(target) == (["aac", "h264"] if how.sound else ["h264"])


def test_what_a_browser_plays_is_copied(tmp_path: Path) -> None:
    """From another container, and without a loss: the packets are those of the film."""
    source = write(tmp_path / "film.mkv", FILMS["mp4"])
    write_preview(str(source), 1.5, 3.0, tmp_path / "preview.mp4")
    with av.open(os.fspath(source)) as one, av.open(os.fspath(tmp_path / "preview.mp4")) as other:
        films, previews = ([p.size for p in opened.demux(video=0) if p.size] for opened in (one, other))
    assert previews == films[30:60]


def test_the_sound_of_a_preview_is_that_of_its_moment(tmp_path: Path) -> None:
    for name, sound in (("avi", "pcm_s16le"), ("mkv, HEVC", "aac"), ("webm", "libopus")):
        how = FILMS[name]
        source = write(
            tmp_path / f"film{how.suffix}", How(suffix=how.suffix, codec=how.codec, options=how.options, sound=sound)
        )
        write_preview(str(source), 2.05, 3.85, tmp_path / "preview.mp4")
        with av.open(os.fspath(tmp_path / "preview.mp4")) as opened:
            heard = [frame.to_ndarray() for frame in opened.decode(audio=0)]
        assert sum(part.shape[1] for part in heard) / 48000 == pytest.approx(1.8, abs=0.09), name
        assert float(np.abs(np.concatenate(heard, 1)).max()) > 0.1, "it is heard"


def test_a_preview_is_upright_even_and_not_too_long(tmp_path: Path) -> None:
    odd = film(tmp_path / "odd.avi", (1,), 2.0, VideoFormat(width=162, height=122, rate=25, codec="mpeg4"))
    assert odd
    flat = tmp_path / "flat.mp4"
    film(flat, (2, 3), 40.0)
    rotated(flat, 90)
    target = tmp_path / "preview.mp4"
    write_preview(str(tmp_path / "odd.avi"), 0.5, 1.5, target)
    with av.open(os.fspath(target)) as opened:
        assert (opened.streams.video[0].width, opened.streams.video[0].height) == (162, 122)
    write_preview(str(flat), 0.33, 80.0, target)
    with av.open(os.fspath(target)) as opened:
        frame = next(opened.decode(video=0))
        assert isinstance(frame, av.VideoFrame)
        assert (frame.height > frame.width) != (frame.rotation % 180 != 0)
        assert (opened.duration or 0) / av.time_base == pytest.approx(LONGEST, abs=0.5)


def test_what_is_no_video_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "film.avi").write_bytes(b"RIFF\0\0\0\0AVI ")
    with pytest.raises(MediaError):
        write_preview(str(tmp_path / "film.avi"), 0, 1, tmp_path / "preview.mp4")
    source = write(tmp_path / "good.mp4", FILMS["mp4"])
    write_preview(str(source), 100, 101, tmp_path / "preview.mp4")
    assert shown(tmp_path / "preview.mp4")[0] == [119], "behind its end a film shows its last picture"
    command = module_command("media.preview", str(tmp_path / "film.avi"), "0", "1", str(tmp_path / "preview.mp4"))
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=module_environment())
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory, mini: Encoder) -> Path:
    """An index of a film that no browser plays, one that ends early on disk, and a photo."""
    folder = tmp_path_factory.mktemp("films")
    old = VideoFormat(width=160, height=120, rate=20, codec="mpeg4", options={"g": "10"})
    film(folder / "old.avi", (31, 32, 33), 2.0, old)
    film(folder / "gone.avi", (41, 42), 2.0, old)
    picture(5).save(folder / "photo.png")
    build(folder, mini)
    (folder / "gone.avi").write_bytes(b"RIFF and nothing more")
    return folder


def test_the_server_makes_previews_of_moments_alone(films: Path) -> None:
    with serving(films / ".mmsearch") as address, httpx.Client(base_url=address, timeout=120) as web:
        hits = web.post("/api/search", json={"text": "a", "k": 100}).json()["hits"]
        ids = {Path(hit["path"]).name: hit for hit in hits}
        moment = ids["old.avi"]
        whole = web.get(f"/preview/{moment['id']}")
        assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
        assert web.get(f"/preview/{moment['id']}", headers={"Range": "bytes=0-9"}).content == whole.content[:10]
        part = web.get(f"/preview/{moment['id']}", params={"start": 2, "end": 4})
        assert part.status_code == 200 and part.content != whole.content
        again = web.get(
            f"/preview/{moment['id']}", params={"start": 2, "end": 4}, headers={"If-None-Match": part.headers["etag"]}
        )
        assert again.status_code == 304
        for bad in ({"start": 4, "end": 2}, {"start": 3, "end": 3}):
            assert web.get(f"/preview/{moment['id']}", params=bad).status_code == 404
        assert web.get(f"/preview/{moment['id']}", params={"start": "nan", "end": 1}).status_code == 422
        assert web.get(f"/preview/{ids['photo.png']['id']}").json()["error"] == "only moments of videos have previews"
        gone = web.get(f"/preview/{ids['gone.avi']['id']}")
        assert gone.status_code == 404 and gone.json()["error"]


def test_a_film_that_the_browser_does_not_play_is_seen_all_the_same(films: Path, browser: Browser) -> None:
    with serving(films / ".mmsearch") as address, tab_of(browser, address) as tab:
        page = tab.open("/?q=a&kind=video")
        page.locator("#grid a.tile", has=page.locator("img")).first.wait_for()
        page.locator('#grid a.tile[aria-label^="old.avi"]').first.click()
        page.wait_for_function("() => document.querySelector('#stage video')?.readyState >= 2")
        assert "/preview/" in page.evaluate("document.querySelector('#stage video').currentSrc")
        expect(page.locator("#stage .note")).to_contain_text("preview")
        first = page.evaluate("document.querySelector('#stage video').currentSrc")
        expect(page.locator("#line button[aria-current=true]")).to_have_count(1)
        page.locator("#line button:not([aria-current])").last.click()
        page.wait_for_function("(before) => document.querySelector('#stage video').currentSrc !== before", arg=first)
        page.wait_for_function("() => document.querySelector('#stage video')?.readyState >= 2")
        page.keyboard.press("Escape")
        page.locator('#grid a.tile[aria-label^="gone.avi"]').first.click()
        expect(page.locator("#stage p")).to_have_text(re.compile("This browser cannot play|gone.avi"))
        tab.wrong.clear()


def test_a_clip_goes_on_being_cut_as_before(tmp_path: Path) -> None:
    """Both use the same reading of packets."""
    source = write(tmp_path / "film.avi", FILMS["avi"])
    assert shown(cut(Place(path=str(source), start=1.0, end=2.0), tmp_path, 1))[0] == list(range(20, 40))
