"""Where the error of sync-SDE comes from, on the emoji edits: `python -m benchmarks.sync_sde`.

On the half of the edits that settings are chosen on (docs/emoji-edits.md), strength 0.8 and no guidance: sync-SDE with
other steps, grids and stochasticities, and FlowEdit beside it. Of those with several seeds, the mean squared error is
split as E |r - truth|^2 = |E r - truth|^2 + E |r - E r|^2 into bias and spread over seeds, both without bias of their
own, and the mean of the seeds' results is scored too: what a method gains by giving a blurred answer.
"""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import sdejax as sj
from sdejax.evaluation.edits import EditCase
from sdejax.evaluation.emoji_edits import emoji_edits, read_emoji
from sdejax.evaluation.metrics import Candidates
from sdejax.evaluation.run import Scorers, edit_seed
from sdejax.evaluation.scores import choosing_half


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Where the error of sync-SDE comes from."""

    snapshot: str = "checkpoints/emoji32"
    data: str = "data/emoji32"
    strength: float = 0.8
    seeds: int = 4
    """Seeds of the rows that are split into bias and spread, at least 2."""
    batch: int = 51


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row: `edit` takes (source, target, sde, images, keys, strength=)."""

    name: str
    edit: Callable[..., Any]
    several: bool = False


def _sync(name: str, several: bool = False, **options: Any) -> Variant:
    sampler = sj.Sampler(**{"steps": 20, **options})
    return Variant(name, lambda *given, **how: sj.sync_sde(*given, sampler=sampler, **how), several)


VARIANTS = (
    _sync("sync-SDE, 20 steps", several=True),
    _sync("10 steps", steps=10),
    _sync("50 steps", steps=50),
    _sync("edm grid", grid="edm"),
    _sync("first order (CycleDiffusion)", solver=sj.Exponential(1)),
    _sync("stochasticity 0", stochasticity=0.0, several=True),
    _sync("stochasticity 0.5", stochasticity=0.5),
    _sync("stochasticity 1.5", stochasticity=1.5),
    Variant("FlowEdit, 20 steps", sj.flow_edit, several=True),
)


def results(model: sj.Model, edits: list[EditCase], variant: Variant, seed: int, arguments: Arguments) -> np.ndarray:
    """The edited images (n, h, w, c), with the noises that `sdejax evaluate` has for them."""
    found = []
    for first in range(0, len(edits), arguments.batch):
        some = edits[first : first + arguments.batch]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sj.UnknownWordWarning)
            source = model.denoiser([edit.source_prompt for edit in some])
            target = model.denoiser([edit.target_prompt for edit in some])
        images = np.stack([edit.source for edit in some])
        keys = sj.keys(edit_seed(edit.name, seed) for edit in some)
        edited = variant.edit(source, target, model.sde, images, keys, strength=arguments.strength)
        found.append(np.clip(np.asarray(edited), -1.0, 1.0))
    return np.concatenate(found)


def main() -> None:
    import tyro

    arguments = tyro.cli(Arguments)
    model = sj.load(arguments.snapshot)
    images, held_out = read_emoji(arguments.data, model.shape)
    every = emoji_edits(images, held_out)
    edits = [edit for edit, chosen in zip(every, choosing_half(every), strict=True) if chosen]
    truth = np.stack([edit.truth for edit in edits if edit.truth is not None])
    scorers = Scorers(Candidates.of(np.stack(list(images.values()))))

    def row(name: str, found: np.ndarray, split: str = "| |") -> None:
        scores = scorers.score(edits, found)
        means = (np.mean([value for value in scores[metric] if value is not None]) for metric in ("l1", "kept"))
        right = np.mean([value for value in scores["nearest"] if value is not None])
        print(f"| {name} | {' | '.join(f'{mean:.4f}' for mean in means)} | {100 * right:.0f}% {split}", flush=True)

    print("| variant | L1 to the truth | L1 where it should stay | true answers | bias^2 | spread^2 |")
    print("|---|---|---|---|---|---|", flush=True)
    for variant in VARIANTS:
        count = arguments.seeds if variant.several else 1
        found = np.stack([results(model, edits, variant, seed, arguments) for seed in range(count)])
        if not variant.several:
            row(variant.name, found[0])
            continue
        spread = float(np.mean(np.var(found, axis=0, ddof=1)))
        bias = float(np.mean(np.square(found.mean(0) - truth))) - spread / count
        row(variant.name, found[0], f"| {bias:.4f} | {spread:.4f} |")
        row(f"{variant.name}, mean of {count} seeds", found.mean(0))


if __name__ == "__main__":
    main()
