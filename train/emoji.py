"""Draw the emoji data set: `python -m train.emoji OUT`.

Every fully qualified emoji of Unicode's emoji-test.txt, drawn from Noto Color Emoji, cropped to its ink, padded to a
square, on white, with its Unicode name as its caption. On Debian:

    apt-get install fonts-noto-color-emoji unicode-data

Many emoji differ in one attribute alone (skin tone, hair, the hour of a clock, the colour of a heart), so the true
result of a text edit is known. A fixed tenth of the names is held out, in a folder of its own: never train on it.

The font is under the SIL Open Font License 1.1, the names under the Unicode licence.
"""

import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont, features

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
EMOJI_TEST = "/usr/share/unicode/emoji/emoji-test.txt"
_BITMAP_SIZE = 109  # the one size at which the font has its colour bitmaps
_LINE = re.compile(r"^(?P<codes>[0-9A-F ]+?)\s*; fully-qualified\s*# \S+ E[0-9.]+ (?P<name>.+)$")


@dataclasses.dataclass(frozen=True)
class Emoji:
    """One emoji: its characters, its Unicode name, and the subgroup that it is listed under."""

    text: str
    name: str
    subgroup: str


def held_out(name: str) -> bool:
    """Whether the emoji of this name is never trained on: a fixed tenth of all names."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 == 0


def read_emoji_test(path: str | Path = EMOJI_TEST) -> Iterator[Emoji]:
    """The fully qualified emoji of a Unicode emoji-test.txt, in its order."""
    subgroup = ""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith("# subgroup: "):
            subgroup = line.removeprefix("# subgroup: ")
        elif match := _LINE.match(line):
            text = "".join(chr(int(code, 16)) for code in match["codes"].split())
            yield Emoji(text, match["name"], subgroup)


def draw(text: str, font: ImageFont.FreeTypeFont, size: int) -> Image.Image | None:
    """The emoji as an RGB image of size x size on white; None where the font has nothing to draw."""
    canvas = Image.new("RGBA", (5 * _BITMAP_SIZE, 2 * _BITMAP_SIZE), (255, 255, 255, 0))
    ImageDraw.Draw(canvas).text((_BITMAP_SIZE // 2, _BITMAP_SIZE // 4), text, font=font, embedded_color=True)
    ink = canvas.getchannel("A").getbbox()
    if ink is None:
        return None
    cropped = canvas.crop(ink)
    side = max(cropped.size)
    square = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    square.alpha_composite(cropped, ((side - cropped.width) // 2, (side - cropped.height) // 2))
    return square.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)


def draw_all(out: Path, size: int, font_path: str, emoji_test: str) -> dict[str, int]:
    """Write OUT/train and OUT/heldout, each with its captions.jsonl; the number of images of each."""
    if not features.check("raqm"):
        raise ValueError("Pillow was built without raqm, which joins emoji sequences; install Pillow's own wheel")
    for name, path in (("--font", font_path), ("--emoji-test", emoji_test)):
        if not Path(path).is_file():
            raise ValueError(
                f"{name}={path!r}: no such file; on Debian apt-get install fonts-noto-color-emoji unicode-data"
            )
    font = ImageFont.truetype(font_path, _BITMAP_SIZE, layout_engine=ImageFont.Layout.RAQM)
    counts = {}
    captions: dict[str, list[str]] = {"train": [], "heldout": []}
    for part in captions:
        (out / part).mkdir(parents=True, exist_ok=True)
    for number, emoji in enumerate(read_emoji_test(emoji_test)):
        image = draw(emoji.text, font, size)
        if image is None or ImageChops.invert(image).getbbox() is None:
            continue
        part = "heldout" if held_out(emoji.name) else "train"
        file = f"{number:04d}.png"
        image.save(out / part / file)
        row = {"file": file, "caption": emoji.name, "subgroup": emoji.subgroup}
        captions[part].append(json.dumps(row, ensure_ascii=False))
    for part, lines in captions.items():
        (out / part / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        counts[part] = len(lines)
    return counts


@dataclasses.dataclass(frozen=True)
class _Arguments:
    """Draw the emoji data set into OUT/train and OUT/heldout."""

    out: str
    """The folder to write."""
    size: int = 32
    """Height and width in pixels."""
    font: str = FONT
    """NotoColorEmoji.ttf."""
    emoji_test: str = EMOJI_TEST
    """Unicode's emoji-test.txt."""


def main() -> int:
    """The command."""
    import tyro

    arguments = tyro.cli(_Arguments, config=(tyro.conf.PositionalRequiredArgs,))
    try:
        counts = draw_all(Path(arguments.out), arguments.size, arguments.font, arguments.emoji_test)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}: {counts['train']} emoji to train on, {counts['heldout']} held out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
