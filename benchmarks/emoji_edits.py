"""306 text edits with known true results, by every method: `python -m benchmarks.emoji_edits`.

`sdejax evaluate emoji-edits` with the methods all; docs/emoji-edits.md says how edits are chosen and scored. A run that
was stopped goes on where it was; each finished setting is kept. `--count` says what a run costs, and runs nothing.
"""

import dataclasses

from sdejax.commands.evaluate import EvaluateCommand


@dataclasses.dataclass(frozen=True)
class Arguments:
    """306 text edits with known true results, by every method."""

    snapshot: str = "checkpoints/emoji32"
    data: str = "data/emoji32"
    """What `python -m train.emoji` wrote."""
    out: str = "out/emoji-edits"
    strengths: str = "0.3,0.45,0.6,0.8"
    guidances: str = "1,2,3"
    seeds: str = "0-3"
    steps: int = 20
    count: bool = False
    """Print how many settings and network evaluations (of one image) the run has, and stop."""


def main() -> int:
    import tyro

    from sdejax.commands.seeds import parse_seeds
    from sdejax.edit.methods import METHODS
    from sdejax.evaluation.emoji_edits import COUNT
    from sdejax.evaluation.run import SettingGrid

    arguments = tyro.cli(Arguments)
    if arguments.count:
        strengths, guidances = (
            tuple(map(float, text.split(","))) for text in (arguments.strengths, arguments.guidances)
        )
        grid = SettingGrid(tuple(METHODS), strengths, guidances, tuple(parse_seeds(arguments.seeds)), arguments.steps)
        settings = grid.settings()
        each = [METHODS[setting.method].evaluations(grid.steps, setting.guidance) for setting in settings]
        print(f"{len(settings)} settings of {COUNT} edits, {COUNT * sum(each)} evaluations of one image")
        return 0
    options = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Arguments)}
    del options["count"]
    return EvaluateCommand("emoji-edits", **options).execute()


if __name__ == "__main__":
    raise SystemExit(main())
