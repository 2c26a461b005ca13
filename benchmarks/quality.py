"""Quality against network evaluations, for every sampler: `python -m benchmarks.quality OUT` (extra `card`).

Two tasks on the bundled model, with the same seeds for every sampler:

    samples  images from noise, without a prompt
    strokes  SDEdit of the held-out images' stroke paintings at strength 0.5 (a median filter and 6 colours)

and two figures for each sampler and number of network evaluations:

    error     root mean square difference in [-1, 1] to the solution in 2000 steps on the same Brownian path (or ODE)
    distance  between the results and the training images: the unbiased squared maximum mean discrepancy with the cubic
              kernel (x.y / d + 1)^3 of the kernel inception distance (Binkowski et al. 2018), times 1000, on features
              that anyone can compute: the d = 192 means over blocks of 4 x 4 pixels, minus the training set's mean and
              divided by its standard deviation over all of them

The kernel inception distance proper needs a network trained on photographs, which says little of 32 pixel emoji.
Results are kept in OUT/quality.jsonl as they come, and a row that is there is not computed again; `--methods` and
`--budgets` take a part of the whole, which the next call goes on from.
"""

import dataclasses
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import diffrax
import jax
import numpy as np
from jax.typing import ArrayLike

import sdejax as sj
from sdejax.denoiser.protocol import Denoiser
from sdejax.evaluation.emoji_edits import read_emoji
from sdejax.media.guides import stroke_painting
from sdejax.media.images import contact_sheet, save_png, to_array, to_image
from sdejax.runtime.files import write_atomically

BUDGETS = (5, 10, 20, 50, 100, 500)
STRENGTH = 0.5
_FINE = 2000


@dataclasses.dataclass(frozen=True)
class Method:
    """A sampler for a budget of evaluations; `reference` is the family whose fine solution it approximates."""

    make: Callable[[int], sj.Sampler]
    reference: str = ""


def _half(budget: int) -> int:
    """Steps of a solver with two evaluations each, and one for the last D."""
    return max(2, (budget + 1) // 2)


METHODS = {
    "ancestral": Method(lambda n: sj.Sampler(n, "log_snr", sj.Exponential(1)), "sde"),
    "SDE, 2nd order": Method(lambda n: sj.Sampler(n, "log_snr"), "sde"),
    "SDE, 2nd order, edm grid": Method(lambda n: sj.Sampler(n, "edm"), "sde"),
    "SDE, Euler-Maruyama": Method(lambda n: sj.Sampler(n, "log_snr", diffrax.Euler()), "sde"),
    "SDE, ShARK": Method(lambda n: sj.Sampler(_half(n), "log_snr", diffrax.ShARK()), "levy"),
    "predictor-corrector": Method(
        lambda n: sj.Sampler(max(1, n // 2), "log_snr", sj.Exponential(1, sj.Langevin(0.16)))
    ),
    "DDIM": Method(lambda n: sj.Sampler(n, "log_snr", sj.Exponential(1), stochasticity=0.0), "ode"),
    "ODE, 2nd order": Method(lambda n: sj.Sampler(n, "log_snr", stochasticity=0.0), "ode"),
    "ODE, 2nd order, edm grid": Method(lambda n: sj.Sampler(n, "edm", stochasticity=0.0), "ode"),
    "ODE, Heun": Method(lambda n: sj.Sampler(_half(n), "edm", diffrax.Heun(), 0.0), "ode"),
}
REFERENCES = {
    "sde": sj.Sampler(_FINE, "log_snr"),
    "ode": sj.Sampler(_FINE, "log_snr", stochasticity=0.0),
    "levy": sj.Sampler(_FINE, "log_snr", diffrax.ShARK()),
}
TOLERANCES = (1e-1, 3e-2, 1e-2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Counted:
    """A denoiser that tells the host of its calls, each of a whole batch: for solvers that choose their steps."""

    denoiser: Denoiser
    count: Callable[[], None] = dataclasses.field(metadata={"static": True})

    def __call__(self, t: ArrayLike, x: jax.Array) -> jax.Array:
        jax.debug.callback(self.count)
        return self.denoiser(t, x)


def features(images: np.ndarray) -> np.ndarray:
    """Means over blocks of 4 x 4 pixels, (n, 192) of (n, 32, 32, 3)."""
    n, h, w, c = images.shape
    return np.clip(images, -1.0, 1.0).reshape(n, h // 4, 4, w // 4, 4, c).mean((2, 4)).reshape(n, -1)


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """1000 times the unbiased squared MMD of two sets of features (n, d), (m, d) with the kernel (x.y / d + 1)^3."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1.0) ** 3

    n, m = len(x), len(y)
    own = (kernel(x, x).sum() - np.trace(kernel(x, x))) / (n * (n - 1))
    other = (kernel(y, y).sum() - np.trace(kernel(y, y))) / (m * (m - 1))
    return float(1000.0 * (own + other - 2.0 * kernel(x, y).mean()))


@dataclasses.dataclass(frozen=True)
class Task:
    """What is drawn, and from which guides: one of them for each seed, over and over; none for samples."""

    name: str
    model: sj.Model
    guides: np.ndarray | None
    batch: int

    def draw(self, sampler: sj.Sampler, count: int, denoiser: Denoiser | None = None) -> np.ndarray:
        """(count, h, w, c), in batches."""
        denoiser = denoiser or self.model.denoiser()
        images, batch = [], min(self.batch, count)
        for first in range(0, count, batch):
            keys = sj.keys(range(first, first + batch))
            if self.guides is None:
                drawn = sj.sample(denoiser, self.model.sde, keys, self.model.shape, sampler=sampler)
            else:
                guide = self.guides[np.arange(first, first + batch) % len(self.guides)]
                drawn = sj.sdedit(denoiser, self.model.sde, guide, keys, strength=STRENGTH, sampler=sampler)
            images.append(np.asarray(drawn))
        return np.concatenate(images)[:count]

    def fine(self, reference: str, count: int, out: Path) -> np.ndarray:
        """The first images solved in 2000 steps; kept in `out`, since that takes minutes."""
        path = out / f"fine-{self.name}-{reference}.npy"
        if not path.is_file():
            buffer = io.BytesIO()
            np.save(buffer, self.draw(REFERENCES[reference], count))
            write_atomically(path, buffer.getvalue())
        return np.load(path)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Quality against network evaluations, for every sampler."""

    out: str
    """The folder to write."""
    snapshot: str = "checkpoints/emoji32"
    data: str = "data/emoji32"
    images: int = 128
    """Images for the distance."""
    compared: int = 16
    """Images for the error."""
    batch: int = 32
    methods: tuple[str, ...] = tuple(METHODS)
    budgets: tuple[int, ...] = BUDGETS
    adaptive: bool = True
    """Whether to run the adaptive solver too."""


def tasks(arguments: Arguments, model: sj.Model, held_out: list[np.ndarray]) -> list[Task]:
    """The two tasks."""
    paintings = [stroke_painting(to_image(image)) for image in held_out[: arguments.images]]
    guides = np.stack([to_array(painting) for painting in paintings])
    return [Task("samples", model, None, arguments.batch), Task("strokes", model, guides, arguments.batch)]


def main() -> None:
    import tyro

    arguments = tyro.cli(Arguments, config=(tyro.conf.PositionalRequiredArgs,))
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    log = out / "quality.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    known = {(row["task"], row["method"], row["budget"]) for row in rows}
    model = sj.load(arguments.snapshot)
    images, unseen = read_emoji(arguments.data, model.shape)
    real = features(np.stack([image for name, image in images.items() if name not in unseen]))
    middle, spread = real.mean(0), real.std()

    def distance(images: np.ndarray) -> float:
        return kernel_distance((features(images) - middle) / spread, (real - middle) / spread)

    def keep(row: dict) -> None:
        rows.append(row)
        write_atomically(log, "".join(json.dumps(row) + "\n" for row in rows).encode())
        print(json.dumps(row), flush=True)

    for task in tasks(arguments, model, [images[name] for name in images if name in unseen]):
        for name in arguments.methods:
            method = METHODS[name]
            for budget in arguments.budgets:
                if (task.name, name, budget) in known:
                    continue
                fine = task.fine(method.reference, arguments.compared, out) if method.reference else None
                started = time.perf_counter()
                images = task.draw(method.make(budget), arguments.images)
                row = {"task": task.name, "method": name, "budget": budget, "distance": distance(images)}
                if fine is not None:
                    row["error"] = float(np.sqrt(np.mean(np.square(images[: arguments.compared] - fine))))
                keep({**row, "seconds": time.perf_counter() - started})
                few = [to_image(image) for image in images[:32]]
                save_png(out / f"{task.name}-{name}-{budget}.png", contact_sheet(few, columns=16, scale=2))
        if arguments.adaptive:
            _adaptive(task, arguments, known, distance, keep)
    if rows:
        write_atomically(out / "quality.png", draw(rows))


def _adaptive(task: Task, arguments: Arguments, known: set, distance: Callable, keep: Callable) -> None:
    """Heun's method on the ODE with steps of its own choice, by tolerance; its evaluations are counted."""
    for tolerance in TOLERANCES:
        calls = [0]

        def count(calls: list[int] = calls) -> None:
            calls[0] += 1

        name = f"ODE, adaptive, tolerance {tolerance:g}"
        if (task.name, name, 0) in known:
            continue
        solver = sj.Diffrax(diffrax.Heun(), diffrax.PIDController(rtol=tolerance, atol=tolerance))
        sampler = sj.Sampler(20, "log_snr", solver, 0.0)
        images = task.draw(sampler, arguments.images, _Counted(task.model.denoiser(), count))
        jax.effects_barrier()
        fine = task.fine("ode", arguments.compared, Path(arguments.out))
        error = float(np.sqrt(np.mean(np.square(images[: arguments.compared] - fine))))
        evaluations = calls[0] / -(-arguments.images // arguments.batch)
        keep({"task": task.name, "method": name, "budget": 0, "evaluations": evaluations, "distance": distance(images),
              "error": error})  # fmt: skip


def draw(rows: list[dict]) -> bytes:
    """The two figures over the evaluations, a panel for each task, as a PNG."""
    from matplotlib import colormaps  # pyright: ignore[reportMissingImports]
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

    names = list(dict.fromkeys(row["task"] for row in rows))
    figure = Figure(figsize=(12.0, 4.0 * len(names)), dpi=100, layout="constrained")
    panels = figure.subplots(len(names), 2, squeeze=False)
    for task, (left, right) in zip(names, panels, strict=True):
        for panel, figure_name in ((left, "distance"), (right, "error")):
            for colour, name in enumerate(dict.fromkeys(row["method"] for row in rows)):
                points = [
                    (row.get("evaluations", row["budget"]), row[figure_name])
                    for row in rows
                    if row["task"] == task and row["method"] == name and figure_name in row
                ]
                if points:
                    panel.plot(
                        *zip(*sorted(points), strict=True),
                        color=colormaps["tab20"](colour % 20),
                        marker=".",
                        linewidth=1.0,
                        label=name,
                    )
            panel.set(title=f"{task}: {figure_name}", xlabel="network evaluations", xscale="log", yscale="log")
            panel.grid(alpha=0.3)
        if min(row["distance"] for row in rows if row["task"] == task) < 10.0:
            left.set_yscale("symlog", linthresh=10.0)  # an unbiased estimate of nothing is below 0 half of the time
        handles = left.get_legend_handles_labels()  # the right panel lacks those without an error
        right.legend(*handles, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
