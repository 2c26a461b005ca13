"""The strength that a wish of the command line asks for, seed by seed: `--keep-distance` and `--realism`."""

import dataclasses
from typing import Any

import numpy as np

from sdejax.commands.editing import Editor
from sdejax.density.realism import calibrate, denoising_errors
from sdejax.edit.strength import GoalNotMet, check_realism, largest_strength, smallest_strength
from sdejax.jobs.progress import print_error
from sdejax.noise.keys import keys

_SAMPLES = range(2**31, 2**31 + 64)  # seeds of the model's own samples; an edit's are unlikely to be among them


def find_strength(editor: Editor, command: Any, model: Any, seeds: list[int], sampler: Any) -> dict[int, float]:
    """The strength for each seed of `command`, which asks for `keep_distance` or for `realism`; seeds without are told.

    Ten edits of one image for each seed, and for realism 64 samples besides, drawn as the edits are.

    **Raises:** `ValueError` where the wish is outside its range, or no strength grants it to any seed.
    """
    editor.check(command, model)
    given = editor.open(command, model.shape)
    denoiser = model.denoiser(command.prompt, command.guidance, command.negative)
    realism = None
    if command.realism is not None:
        check_realism(command.realism)
        realism = calibrate(denoiser, model.sde, keys(_SAMPLES), model.shape, sampler=sampler)
    found, refused = {}, GoalNotMet()
    for seed in seeds:

        def edit(strength: float, seed: int = seed) -> np.ndarray:
            one = dataclasses.replace(command, strength=strength)
            return np.asarray(editor.compute(model, [one], given.image[None], given.mask[None], keys([seed])))[0]

        def typical(result: np.ndarray, seed: int = seed) -> float:
            assert realism is not None
            return float(realism(np.asarray(denoising_errors(denoiser, model.sde, result[None], keys([seed]))))[0])

        try:
            if command.realism is None:
                strength, result = largest_strength(edit, given.image, command.keep_distance)
                wish = f"distance {float(np.sqrt(np.mean(np.square(result - given.image)))):.3f}"
            else:
                strength, result = smallest_strength(edit, typical, command.realism)
                wish = f"realism {typical(result):.2f}"
            found[seed], said = strength, f"seed {seed}: strength {strength:.3f}, {wish}"
        except GoalNotMet as error:
            refused, said = error, f"error: seed {seed}: {error}"
        if len(seeds) > 1 or found:
            print_error(said)
    if not found:
        raise refused
    return found
