"""Your own folder of images at 256 x 256: the starting point for unlabelled data of that size.

Data     any folder of images; sizes are cropped to a square and resized
Command  sdejax train configs/folder256.py --data path/to/images
Cost     not run here; meant for some eight GPUs or TPU cores: a step is 6e13 FLOPs (--dry-run says it)
Result   not run here
"""

import sdejax as sj


def get_config() -> sj.Config:
    """DDPM++ with FIR resampling on VP, edm's preconditioning, bfloat16, horizontal flips."""
    return sj.Config(
        name="folder256",
        data="data/images",
        network=sj.NCSNppConfig(
            shape=(256, 256, 3),
            channels=128,
            multipliers=(1, 1, 2, 2, 4, 4),
            blocks=2,
            attention=(16, 8),
            heads=4,
            fir=True,
            embedding="fourier",
            fourier_scale=1.0,
            dropout=0.0,
            dtype="bfloat16",
            remat=True,
        ),
        sde=sj.VPSDE(),
        parametrisation=sj.Parametrisation(sj.EDM(0.5), sj.LogLevelLabel()),
        optimiser=sj.OptimiserConfig(learning_rate=1e-4, warmup=5000),
        batch=32,
        steps=1_000_000,
        ema=(0.9999, 0.999),
        flip=True,
        validate_every=5000,
        sample_every=5000,
        checkpoint_every=5000,
        checkpoints_forever=100_000,
    )
