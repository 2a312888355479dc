"""What a file is by its suffix, and by its first bytes where a suffix is shared.

The suffixes of videos are those that FFmpeg's formats for films own, generated (`tests/test_pictures_of_videos.py` does it
again), and those that cameras and recorders gave to the same formats.
"""

from __future__ import annotations

from media.foreign import FOREIGN_SUFFIXES

# FFmpeg's names of formats whose suffixes are meant, and suffixes of theirs that mean something else here or elsewhere.
FORMATS = (
    "3g2", "3gp", "amv", "asf", "avi", "avs2", "avs3", "cavsvideo", "dhav", "dnxhd", "dirac", "dv", "dvd",
    "f4v", "flv", "gxf", "h261", "h263", "h264", "hevc", "ismv", "ivf", "ivr", "kux", "m4v", "matroska",
    "mjpeg", "mov", "mp4", "mpeg", "mpeg1video", "mpeg2video", "mpegts", "mxf", "nut", "obu", "ogv", "rm",
    "roq", "svcd", "vc1", "vivo", "vob", "vvc", "webm", "wtv", "xmv", "yuv4mpegpipe"
)  # fmt: skip
OTHERS = frozenset(
    (".avif", ".heic", ".heif", ".m4a", ".m4b", ".mka", ".mks", ".isma", ".ism", ".psp", ".mpo", ".wma", ".ra", ".avs", ".dif",
     ".drc")
)  # fmt: skip
GENERATED = frozenset((
    ".264", ".265", ".266", ".3g2", ".3gp", ".amv", ".asf", ".avc", ".avi", ".avs2", ".avs3", ".cavs",
    ".dav", ".dnxhd", ".dnxhr", ".dv", ".dvd", ".f4v", ".flv", ".gxf", ".h261", ".h263", ".h264", ".h265",
    ".h266", ".h26l", ".hevc", ".ismv", ".ivf", ".ivr", ".kux", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v",
    ".mj2", ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut",
    ".obu", ".ogv", ".rm", ".roq", ".ts", ".vc1", ".vc2", ".viv", ".vob", ".vvc", ".webm", ".wmv", ".wtv",
    ".xmv", ".y4m"
))  # fmt: skip
_CAMERAS = frozenset((
    ".divx", ".xvid", ".mod", ".tod", ".vro", ".rmvb", ".mpe", ".mpv", ".m2p", ".m4p", ".qt", ".trp", ".insv", ".lrv", ".360"
))  # fmt: skip
VIDEO_SUFFIXES = GENERATED | _CAMERAS
_JPEG_AND_WEB = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".avif", ".gif")
_OTHERS = (
    ".heic", ".heif", ".hif", ".tif", ".tiff", ".bmp", ".dib", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm",
    ".psd", ".eps",
)  # fmt: skip
IMAGE_SUFFIXES = frozenset((*_JPEG_AND_WEB, *_OTHERS)) | FOREIGN_SUFFIXES
# Suffixes that programs' sources have as well.
SHARED_SUFFIXES = frozenset((".ts", ".mts", ".mod"))
# Images that may be animated, which their first bytes show.
ANIMATED_SUFFIXES = frozenset((".gif", ".webp"))


def is_transport_stream(head: bytes) -> bool:
    """Whether a file that begins with `head` is MPEG-TS, plain or as cameras write it: TypeScript has the same suffixes."""
    return any(
        head[at : at + 1] == b"G" and head[at + step : at + step + 1] in (b"G", b"")
        for at, step in ((0, 188), (4, 192))
    )


def is_program_stream(head: bytes) -> bool:
    """Whether a file that begins with `head` is MPEG-PS, as old camcorders write it: Go and music trackers have the suffix."""
    return head.startswith(b"\0\0\x01\xba")


def is_animated(head: bytes, suffix: str) -> bool:
    """Whether a `.gif` or `.webp` that begins with `head` is animated: a WebP has a flag for it, a GIF is taken to be where it
    repeats."""
    if suffix == ".webp":
        return head[:4] == b"RIFF" and head[8:12] == b"WEBP" and head[12:16] == b"VP8X" and bool(head[20] & 2)
    return head[:3] == b"GIF" and b"NETSCAPE2.0" in head
