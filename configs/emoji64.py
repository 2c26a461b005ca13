"""The emoji model at 64 x 64: captioned, classifier-free guidance.

Data     python -m train.emoji data/emoji64 --size 64
Command  sdejax train configs/emoji64.py
Cost     not run here; meant for one GPU
Result   not run here
"""

import sdejax as sj


def get_config() -> sj.Config:
    """As emoji32 with one more level and wider: patches of 2 x 2, then 64 to 256 channels at 32, 16, 8 and 4 pixels."""
    return sj.Config(
        name="emoji64",
        data="data/emoji64/train",
        validation="data/emoji64/heldout",
        captions=True,
        network=sj.NCSNppConfig(
            shape=(64, 64, 3),
            patch=2,
            channels=64,
            multipliers=(1, 2, 3, 4),
            blocks=2,
            attention=(8, 4),
            heads=4,
            resblock="ddpm",
            resample_with_conv=False,
            attention_up="every",
            embedding="fourier",
            fourier_scale=1.0,
            dropout=0.0,
            text_width=192,
        ),
        sde=sj.VPSDE(),
        parametrisation=sj.Parametrisation(sj.EDM(0.6), sj.LogLevelLabel()),
        objective=sj.Objective(level_mean=0.0, level_std=1.5, caption_dropout=0.1, word_dropout=0.02),
        optimiser=sj.OptimiserConfig(learning_rate=5e-4, warmup=1000, decay=0.25),
        batch=128,
        steps=60_000,
        ema=(0.9995, 0.9999),
        validate_every=2000,
        sample_every=2000,
        checkpoint_every=1000,
        checkpoints_forever=20_000,
    )
