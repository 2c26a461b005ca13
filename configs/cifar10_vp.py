"""CIFAR-10, VP: continuous DDPM++ (Song et al. 2021, appendix H).

Data     CIFAR-10's 50,000 training images as a folder, zip, tar or parquet file, such as those of its page on the hub
Command  sdejax train configs/cifar10_vp.py
Cost     not run here
Result   not run here; the paper reports FID 2.55 with 1000 steps of its sampler
"""

import sdejax as sj


def get_config() -> sj.Config:
    """Noise prediction, uniform times, Adam, as published."""
    return sj.Config(
        name="cifar10_vp",
        data="data/cifar10",
        network=sj.NCSNppConfig.ddpmpp(32),
        sde=sj.VPSDE(beta_min=0.1, beta_max=20.0),
        parametrisation=sj.Parametrisation(sj.PredictNoise(), sj.TimeLabel()),
        objective=sj.Objective(weighting="noise", times="uniform"),
        optimiser=sj.OptimiserConfig(learning_rate=2e-4, warmup=5000, decay=0.0, beta2=0.999),
        batch=128,
        steps=1_300_000,
        ema=(0.9999,),
        flip=True,
        validate_every=10_000,
        sample_every=10_000,
        checkpoint_every=5_000,
        checkpoints_forever=100_000,
    )
