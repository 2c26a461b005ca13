"""CelebA-HQ at 256 x 256, VE: continuous NCSN++ (Song et al. 2021, appendix H).

Data     CelebA-HQ's 30,000 images at 256 x 256, as a folder, zip, tar or parquet file
Command  sdejax train configs/celebahq256_ve.py
Cost     not run here; meant for some eight GPUs or TPU cores
Result   not run here
"""

import sdejax as sj


def get_config() -> sj.Config:
    """The paper's noise levels, 0.01 to 348, are of images in [0, 1]: twice that in [-1, 1]."""
    return sj.Config(
        name="celebahq256_ve",
        data="data/celebahq256",
        network=sj.NCSNppConfig.ncsnpp(256, remat=True),
        sde=sj.VESDE(sigma_min=0.02, sigma_max=696.0),
        parametrisation=sj.Parametrisation(sj.PredictScore(), sj.LogLevelLabel(), sj.UnitRange()),
        objective=sj.Objective(weighting="noise", times="uniform"),
        optimiser=sj.OptimiserConfig(learning_rate=2e-4, warmup=5000, decay=0.0, beta2=0.999),
        batch=64,
        steps=2_400_000,
        ema=(0.999,),
        flip=True,
        validate_every=10_000,
        sample_every=10_000,
        checkpoint_every=5_000,
        checkpoints_forever=100_000,
    )
