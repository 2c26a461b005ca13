"""Draw the emoji data set: `python -m train.emoji OUT`.

The set has every fully qualified emoji of Unicode's emoji-test.txt, drawn with Noto Color Emoji on white. Each drawing
is cropped to its ink and padded to a square. Its caption is its Unicode name. On Debian, font and names come from

    apt-get install fonts-noto-color-emoji unicode-data

Many emoji differ only in one attribute (skin tone, hair, the hour of a clock, the colour of a heart), so the true
result of a text edit is known. A fixed tenth of the names is held out in a separate folder. Never train on it.

The licence of the font is the SIL Open Font License 1.1, and that of the names is the Unicode licence.
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
_BITMAP_SIZE = 109  # the only size for which the font has colour bitmaps
_LINE = re.compile(r"^(?P<codes>[0-9A-F ]+?)\s*; fully-qualified\s*# \S+ E[0-9.]+ (?P<name>.+)$")


@dataclasses.dataclass(frozen=True)
class Emoji:
    """An emoji: its characters, its Unicode name, and its subgroup in emoji-test.txt."""

    text: str
    name: str
    subgroup: str


def held_out(name: str) -> bool:
    """Whether the emoji of this name belongs to the fixed tenth that is never trained on."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 == 0


def read_emoji_test(path: str | Path = EMOJI_TEST) -> Iterator[Emoji]:
    """Read the fully qualified emoji of Unicode's emoji-test.txt, in the order of the file."""
    subgroup = ""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith("# subgroup: "):
            subgroup = line.removeprefix("# subgroup: ")
        elif match := _LINE.match(line):
            text = "".join(chr(int(code, 16)) for code in match["codes"].split())
            yield Emoji(text, match["name"], subgroup)


def draw(text: str, font: ImageFont.FreeTypeFont, size: int) -> Image.Image | None:
    """Draw an emoji as an RGB image of size x size on white; None if the font does not have it."""
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
    """Write the folders `out`/train and `out`/heldout, each with a captions.jsonl.

    **Returns:** the number of images in each folder.

    **Raises:** `ValueError` if Pillow lacks raqm, or if the font or emoji-test.txt is missing.
    """
    if not features.check("raqm"):
        raise ValueError("Pillow was built without raqm, which emoji sequences need; install Pillow's own wheel")
    for name, path in (("--font", font_path), ("--emoji-test", emoji_test)):
        if not Path(path).is_file():
            raise ValueError(
                f"{name}={path!r}: no such file; on Debian: apt-get install fonts-noto-color-emoji unicode-data"
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
    """Draw the emoji data set to OUT/train and OUT/heldout."""

    out: str
    """The folder to write."""
    size: int = 32
    """The height and width in pixels."""
    font: str = FONT
    """The path of NotoColorEmoji.ttf."""
    emoji_test: str = EMOJI_TEST
    """The path of Unicode's emoji-test.txt."""


def main() -> int:
    """Run the command and return its exit code."""
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
