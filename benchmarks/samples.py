"""Sample photos from scikit-image's package, with captions of our own, and a video of them: `python -m benchmarks.samples DIR`.

No download: only pictures that are inside the installed package are copied.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

PHOTOS = {
    "astronaut.png": "an astronaut in an orange suit smiling in front of a flag",
    "camera.png": "a man in a coat looking through a camera on a tripod",
    "cell.png": None,
    "chelsea.png": "a close-up of a ginger cat looking at the camera",
    "chessboard_GRAY.png": None,
    "clock_motion.png": "a blurred clock on a wall",
    "coffee.png": "a cup of coffee on a wooden table",
    "coins.png": "rows of old coins on a dark background",
    "brick.png": "a wall of bricks",
    "grass.png": "green grass seen from above",
    "gravel.png": "grey gravel",
    "horse.png": "the black outline of a horse",
    "hubble_deep_field.jpg": "galaxies and stars in deep space",
    "ihc.png": None,
    "moon.png": "craters on the surface of the moon",
    "motorcycle_left.png": None,
    "page.png": "a page of printed text",
    "phantom.png": None,
    "retina.jpg": None,
    "rocket.jpg": "a rocket standing on its launch pad at night",
    "text.png": None,
}
# The shots of the sample video, in order.
_VIDEO = ("rocket.jpg", "chelsea.png", "coffee.png", "astronaut.png", "moon.png", "horse.png")


def copy_samples(folder: Path) -> int:
    """Copy what the installed scikit-image carries into `folder`, write `captions.csv`, and return how many photos."""
    import skimage

    data = Path(skimage.__file__).with_name("data")
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["path,caption"]
    count = 0
    for name, caption in PHOTOS.items():
        if not (data / name).is_file():
            continue
        shutil.copyfile(data / name, folder / name)
        count += 1
        if caption:
            rows.append(f'{name},"{caption}"')
    (folder / "captions.csv").write_text("\n".join(rows) + "\n", "utf-8")
    return count


def write_sample_video(folder: Path) -> None:
    """A video of some of the photos in `folder`, three seconds each, with what is seen as subtitles beside it."""
    from PIL import Image

    from benchmarks.synthetic_videos import Shot, VideoFormat, write_video

    names = [name for name in _VIDEO if (folder / name).is_file()]
    shots = [Shot(image=Image.open(folder / name).convert("RGB"), seconds=3, drift=0.2) for name in names]
    how = VideoFormat(width=640, height=480, rate=25, options={"preset": "veryfast", "crf": "20"})
    edges = write_video(folder / "film.mp4", shots, how)
    cues = [
        f"{number}\n{_stamp(start + 0.2)} --> {_stamp(end - 0.2)}\n{sentence(PHOTOS[name] or name)}\n"
        for number, (name, start, end) in enumerate(zip(names, edges, edges[1:], strict=False), 1)
    ]
    (folder / "film.srt").write_text("\n".join(cues), "utf-8")


def sentence(caption: str) -> str:
    """A caption as somebody would say it."""
    many = caption.partition(" ")[0] in ("craters", "galaxies", "rows")
    return f"Here {'are' if many else 'is'} {caption}."


def _stamp(seconds: float) -> str:
    """A time as SubRip files have it."""
    thousandths = round(1000 * seconds)
    return f"00:00:{thousandths // 1000:02d},{thousandths % 1000:03d}"


def main() -> int:
    """Copy the photos to the folder that was named, and write the video."""
    if len(sys.argv) != 2:
        print("usage: python -m benchmarks.samples DIR", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    try:
        count = copy_samples(folder)
        write_sample_video(folder)
    except ImportError:
        print("error: the sample photos come with scikit-image: pip install scikit-image", file=sys.stderr)
        return 1
    print(f"{count} sample photos and a film in {folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
