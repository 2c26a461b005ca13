"""CIFAR-10, VE: continuous NCSN++ (Song et al. 2021, appendix H).

Data     CIFAR-10's 50,000 training images as a folder, zip, tar or parquet file, such as those of its page on the hub
Command  sdejax train configs/cifar10_ve.py
Cost     not run here
Result   not run here; the paper reports FID 2.38 with 2000 evaluations of its sampler
"""

import sdejax as sj


def get_config() -> sj.Config:
    """The paper's noise levels, 0.01 to 50, are of images in [0, 1]: twice that in [-1, 1]."""
    return sj.Config(
        name="cifar10_ve",
        data="data/cifar10",
        network=sj.NCSNppConfig.ncsnpp(32),
        sde=sj.VESDE(sigma_min=0.02, sigma_max=100.0),
        parametrisation=sj.Parametrisation(sj.PredictScore(), sj.LogLevelLabel(), sj.UnitRange()),
        objective=sj.Objective(weighting="noise", times="uniform"),
        optimiser=sj.OptimiserConfig(learning_rate=2e-4, warmup=5000, decay=0.0, beta2=0.999),
        batch=128,
        steps=1_300_000,
        ema=(0.999,),
        flip=True,
        validate_every=10_000,
        sample_every=10_000,
        checkpoint_every=5_000,
        checkpoints_forever=100_000,
    )
