"""The suffixes of videos: those that FFmpeg's formats for films own, generated (`tests/test_pictures_of_videos.py` does it
again), and those that cameras and recorders gave to the same formats."""

from __future__ import annotations

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
