"""The ledger: it follows the table of sources, and no damage to it stops a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.errors import FormatError
from retrieval.store.ledger import LEDGER, read_failures
from retrieval.store.manifest import read_manifest
from tests.conftest import write_photos
from tests.libraries import run


@pytest.fixture
def media(tmp_path: Path) -> Path:
    write_photos(tmp_path, 2)
    for name in ("bad.jpg", "worse.jpg"):
        (tmp_path / name).write_bytes(b"\xff\xd8\xff nothing")
    run(tmp_path / ".mmsearch", tmp_path)
    return tmp_path


def names(media: Path) -> list[str]:
    index = media / ".mmsearch"
    return [Path(failure.path).name for failure in read_failures(index, read_manifest(index))]


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"nonsense" * 100])
def test_a_damaged_ledger_is_set_aside_with_a_line_that_says_so(media: Path, damage: bytes) -> None:
    ledger = media / ".mmsearch" / LEDGER
    ledger.write_bytes(damage)
    with pytest.raises(FormatError, match="mmsearch index"):
        names(media)
    report = run(media / ".mmsearch", media)
    assert any("set aside" in notice for notice in report.notices)
    assert (report.failed, names(media)) == (2, ["bad.jpg", "worse.jpg"])
    assert (media / ".mmsearch" / f"{LEDGER}.damaged").read_bytes() == damage
    assert run(media / ".mmsearch", media).notices == ()


def test_a_ledger_from_before_the_last_publication_is_made_anew(media: Path) -> None:
    """Killed between the manifest and the ledger, with as many failures before as after."""
    ledger = media / ".mmsearch" / LEDGER
    old = ledger.read_bytes()
    (media / "bad.jpg").rename(media / "other.jpg")
    run(media / ".mmsearch", media)
    ledger.write_bytes(old)
    run(media / ".mmsearch", media)
    assert names(media) == ["other.jpg", "worse.jpg"]


def test_a_ledger_that_is_gone_comes_back(media: Path) -> None:
    (media / ".mmsearch" / LEDGER).unlink()
    assert names(media) == []
    run(media / ".mmsearch", media)
    assert names(media) == ["bad.jpg", "worse.jpg"]
