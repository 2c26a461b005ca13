"""The README's pictures from the bundled snapshot: `make demo`, or `python examples/demo.py OUT`.

One picture per application of SDEdit (with a prompt: "red apple", "smiling face with sunglasses", "prince: light skin
tone"), three text edits by sync-SDE beside their true results, and unconditional samples. Seeds are 0, 1, 2, ... and
nothing is picked.
"""

import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import sdejax as sj
from sdejax.media.images import open_image, save_png, to_array, to_image

HERE = Path(__file__).parent
ROOT = HERE.parent
STRENGTHS = (0.3, 0.4, 0.5, 0.6)
TEXT_EDITS = (
    ("red heart", "blue heart", "red-heart", "blue-heart"),
    ("woman: light skin tone", "woman: dark skin tone", "woman-light", "woman-dark"),
    ("six o'clock", "nine o'clock", "six-oclock", "nine-oclock"),
)
Row = list[tuple[str, Image.Image]]


def emoji(name: str) -> Image.Image:
    """A bundled picture."""
    return open_image(HERE / "images" / f"{name}.png")


def paint_apple(size: int = 256) -> Image.Image:
    """A stroke painting: a few thick strokes of flat colour."""
    picture = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((30, 70, 150, 240), fill=(200, 40, 40))
    draw.ellipse((106, 70, 226, 240), fill=(200, 40, 40))
    draw.line((128, 90, 140, 30), fill=(110, 70, 40), width=16)
    draw.line((140, 55, 200, 30), fill=(90, 170, 60), width=30)
    return picture


def paint_glasses(face: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Strokes over a face, and the mask of what they may change."""
    painted, mask = face.copy(), Image.new("L", face.size, 0)
    draw = ImageDraw.Draw(painted)
    draw.line((3, 11, 28, 11), fill=(30, 30, 40), width=2)
    draw.ellipse((5, 10, 14, 17), fill=(30, 30, 40))
    draw.ellipse((17, 10, 26, 17), fill=(30, 30, 40))
    ImageDraw.Draw(mask).rectangle((2, 7, 29, 19), fill=255)
    return painted, mask


def paste_crown(face: Image.Image, crown: Image.Image) -> tuple[Image.Image, Image.Image]:
    """A crown cut out and pasted on a head, and the mask of everything above the eyes."""
    composite, mask = face.copy(), Image.new("L", face.size, 0)
    small = crown.resize((22, 22), Image.Resampling.LANCZOS)
    ink = Image.fromarray(np.where(np.asarray(small.convert("L")) < 235, np.uint8(255), np.uint8(0)))
    composite.paste(small, (5, -6), ink)
    ImageDraw.Draw(mask).rectangle((0, 0, 31, 13), fill=255)
    return composite, mask


def batch(*pictures: Image.Image) -> np.ndarray:
    """Pictures as (b, h, w, c) in [-1, 1]."""
    return to_array(np.stack([np.asarray(picture) for picture in pictures]))


def mask_array(mask: Image.Image) -> np.ndarray:
    """A mask as (h, w, 1) in [0, 1]."""
    return np.asarray(mask, np.float32)[..., None] / 255.0


def sheet(rows: list[Row], cell: int = 128) -> Image.Image:
    """Rows of captioned pictures."""
    font = ImageFont.load_default(13)
    width, height = cell + 8, cell + 26
    canvas = Image.new("RGB", (max(len(row) for row in rows) * width + 8, len(rows) * height + 8), "white")
    draw = ImageDraw.Draw(canvas)
    for y, row in enumerate(rows):
        for x, (caption, picture) in enumerate(row):
            corner = (8 + x * width, 8 + y * height)
            canvas.paste(picture.resize((cell, cell), Image.Resampling.NEAREST), corner)
            draw.rectangle((corner[0] - 1, corner[1] - 1, corner[0] + cell, corner[1] + cell), outline=(200, 200, 200))
            draw.text((corner[0] + cell // 2, corner[1] + cell + 3), caption, fill="black", font=font, anchor="ma")
    return canvas


def main(out: Path) -> None:
    """Make every picture."""
    started = time.perf_counter()

    def done(name: str, rows: list[Row]) -> list[Row]:
        save_png(out / f"{name}.png", sheet(rows))
        print(f"{time.perf_counter() - started:5.1f} s  {out / name}.png", flush=True)
        return rows

    out.mkdir(parents=True, exist_ok=True)
    model = sj.load(ROOT / "checkpoints" / "emoji32")
    sampler = sj.Sampler(50, "log_snr")
    keys = sj.keys(range(4))

    def edit(guide: Image.Image, prompt: str, strength: float, mask: np.ndarray) -> list[Image.Image]:
        given = batch(guide.resize((model.shape[1], model.shape[0]), Image.Resampling.BOX))
        denoiser = model.denoiser(prompt)
        edited = sj.sdedit(denoiser, model.sde, given, keys, strength=strength, mask=mask, sampler=sampler)
        return [to_image(image) for image in np.asarray(edited)]

    everywhere = np.ones((*model.shape[:2], 1), np.float32)
    apple = paint_apple()
    strokes = [("strokes", apple), *((f"strength {s}", edit(apple, "red apple", s, everywhere)[0]) for s in STRENGTHS)]
    overview = done("strokes", [strokes])

    face = emoji("grinning-face")
    painted, mask = paint_glasses(face)
    results = edit(painted, "smiling face with sunglasses", 0.5, mask_array(mask))
    row = [("image", face), ("strokes", painted), ("mask", mask.convert("RGB"))]
    overview += done("stroke-edit", [[*row, *((f"seed {i}", image) for i, image in enumerate(results[:2]))]])

    composite, mask = paste_crown(emoji("man-light"), emoji("crown"))
    results = edit(composite, "prince: light skin tone", 0.4, mask_array(mask))
    row = [("composite", composite), ("mask", mask.convert("RGB"))]
    overview += done("composite", [[*row, *((f"seed {i}", image) for i, image in enumerate(results[:3]))]])

    sources = [source for source, _, _, _ in TEXT_EDITS]
    targets = [target for _, target, _, _ in TEXT_EDITS]
    given = batch(*(emoji(name) for _, _, name, _ in TEXT_EDITS))
    edited = sj.sync_sde(
        model.denoiser(sources),
        model.denoiser(targets),
        model.sde,
        given,
        sj.keys(range(len(sources))),
        strength=0.8,
        sampler=sampler,
    )
    rows = []
    for (source, target, before, truth), image in zip(TEXT_EDITS, np.asarray(edited), strict=True):
        short = [text.removeprefix("woman: ") for text in (source, target)]
        rows.append([(short[0], emoji(before)), (f"to {short[1]}", to_image(image)), ("true result", emoji(truth))])
    done("text-edits", rows)
    overview += [rows[0] + rows[1][:2], rows[1][2:] + rows[2]]

    drawn = np.asarray(sj.sample(model.denoiser(), model.sde, sj.keys(range(20)), model.shape, sampler=sampler))
    samples = [(f"seed {i}", to_image(image)) for i, image in enumerate(drawn)]
    rows = [samples[i : i + 5] for i in range(0, 20, 5)]
    done("samples", rows)
    done("overview", [*overview, *rows[:2]])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/demo"))
