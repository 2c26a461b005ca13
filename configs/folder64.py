"""Your own folder of images at 64 x 64: the starting point for unlabelled data.

Data     any folder of images; sizes are cropped to a square and resized
Command  sdejax train configs/folder64.py --data path/to/images
Cost     not run here; meant for one GPU
Result   not run here
"""

import sdejax as sj


def get_config() -> sj.Config:
    """DDPM++ with FIR resampling on VP, edm's preconditioning, horizontal flips."""
    return sj.Config(
        name="folder64",
        data="data/images",
        network=sj.NCSNppConfig(
            shape=(64, 64, 3),
            channels=128,
            multipliers=(1, 2, 2, 2),
            blocks=3,
            attention=(16, 8),
            heads=4,
            fir=True,
            embedding="fourier",
            fourier_scale=1.0,
            dropout=0.1,
        ),
        sde=sj.VPSDE(),
        parametrisation=sj.Parametrisation(sj.EDM(0.5), sj.LogLevelLabel()),
        optimiser=sj.OptimiserConfig(learning_rate=2e-4, warmup=5000),
        batch=128,
        steps=300_000,
        ema=(0.9999, 0.999),
        flip=True,
        sample_every=5000,
        checkpoint_every=5000,
        checkpoints_forever=100_000,
    )
