"""What realism (eq. 20) says of images whose realism is known: `python -m benchmarks.realism`.

Calibrated on samples of the bundled model, as `sdejax edit --realism` does, and asked about fresh samples, held-out
drawings, their stroke paintings (a median filter and 6 colours), and SDEdit of these paintings at rising strengths. A
score to choose a strength by must be uniform over fresh samples, low for paintings, and rise with the strength.
"""

import dataclasses

import numpy as np

import sdejax as sj
from sdejax.density.realism import calibrate, denoising_errors
from sdejax.evaluation.emoji_edits import read_emoji
from sdejax.media.guides import stroke_painting
from sdejax.media.images import to_array, to_image


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What realism says of images whose realism is known."""

    snapshot: str = "checkpoints/emoji32"
    data: str = "data/emoji32"
    images: int = 64
    """Images of each kind, and samples to calibrate on."""
    strengths: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)


def main() -> None:
    import tyro

    arguments = tyro.cli(Arguments)
    model, count = sj.load(arguments.snapshot), arguments.images
    denoiser, sampler = model.denoiser(), sj.Sampler(20)
    # Seeds of their own for each use: a sample of the calibration is not asked about again.
    realism = calibrate(denoiser, model.sde, sj.keys(range(count)), model.shape, sampler=sampler)
    keys = sj.keys(range(count, 2 * count))
    images, held_out = read_emoji(arguments.data, model.shape)
    drawings = np.stack([images[name] for name in sorted(held_out)][:count])
    paintings = np.stack([to_array(stroke_painting(to_image(drawing))) for drawing in drawings])
    kinds = {
        "samples": sj.sample(denoiser, model.sde, keys, model.shape, sampler=sampler),
        "held-out drawings": drawings,
        "stroke paintings": paintings,
    }
    for strength in arguments.strengths:
        kinds[f"SDEdit of them at {strength:g}"] = sj.sdedit(
            denoiser, model.sde, paintings, keys, strength=strength, sampler=sampler
        )
    print(f"| {count} images | lower quartile | median | upper quartile |\n|---|---|---|---|")
    for kind, shown in kinds.items():
        values = realism(np.asarray(denoising_errors(denoiser, model.sde, shown, keys)))
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        print(f"| {kind} | {low:.2f} | {middle:.2f} | {high:.2f} |", flush=True)


if __name__ == "__main__":
    main()
