"""Images per second of the data pipeline against what training takes: `python -m benchmarks.data`.

Photo-like pictures, made here, in a temporary folder; every image is decoded each time it is drawn. Beside it, the
images per second of our jitted training step on the devices at hand: 32 pixels with the network of configs/emoji32.py,
64 with that of configs/folder64.py, 256 with NCSN++'s preset. What counts is the pipeline over the step: above 1, the
devices never wait.
"""

import argparse
import io
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdejax.training.data.batches import batches
from sdejax.training.data.sources import Images, open_images

SETS = {  # files of so many pixels, of that kind, for images of so many pixels
    "32 PNG": (32, "PNG", 32),
    "64 PNG": (64, "PNG", 64),
    "64 JPEG": (64, "JPEG", 64),
    "256 PNG": (256, "PNG", 256),
    "256 JPEG": (256, "JPEG", 256),
    "512 JPEG": (512, "JPEG", 256),
    "2048 JPEG": (2048, "JPEG", 256),
}
FORMATS = {
    "folder": "tree",
    "zip, stored": "x.zip",
    "zip, deflated": "deflated.zip",
    "tar": "x.tar",
    "parquet, unpacked": "x.parquet",
    "arrow": "x.arrow",
}
HOW = [(1, 0), (2, 0), (4, 0), (1, 2), (2, 2)]  # threads in each of so many workers, or without any


def pictures(size: int, kind: str, count: int) -> Iterator[tuple[str, bytes]]:
    """Names and files: noise whose spectrum falls as a photo's does, in three colours that go together."""
    across, down = np.meshgrid(np.fft.rfftfreq(size), np.fft.fftfreq(size))
    falling = 1.0 / np.maximum(np.hypot(across, down), 1.0 / size)
    for number in range(count):
        random = np.random.default_rng(number)
        white = np.fft.rfft2(random.standard_normal((3, size, size)))
        planes = np.fft.irfft2(white * falling, (size, size))
        planes = 0.8 * planes[:1] + 0.3 * planes
        pixels = np.clip(127.5 + 50.0 * planes / planes.std(), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}))
        yield f"{number:06d}.{kind.lower()}", buffer.getvalue()


def write(folder: Path, files: list[tuple[str, bytes]]) -> None:
    """The same files in every format, under the names of FORMATS."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    tree = folder / "tree"
    tree.mkdir(parents=True)
    with (
        tarfile.open(folder / "x.tar", "w") as tar,
        zipfile.ZipFile(folder / "x.zip", "w") as stored,
        zipfile.ZipFile(folder / "deflated.zip", "w", zipfile.ZIP_DEFLATED) as deflated,
    ):
        for name, data in files:
            (tree / name).write_bytes(data)
            tar.add(tree / name, name)
            stored.writestr(name, data)
            deflated.writestr(name, data)
    table = pa.table({"image": [{"bytes": data, "path": name} for name, data in files]})
    pq.write_table(table, folder / "x.parquet")
    with pa.OSFile(str(folder / "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)


def rate(images: Images, size: int, threads: int, workers: int, seconds: float) -> float:
    """Images per second of the pipeline, once its buffers are full; random crops, so that nothing is kept decoded."""
    batch = max(4, min(64, 2**20 // size**2))
    shape = (size, size, 3)
    stream: Any = batches(
        images, shape, None, batch=batch, seed=0, flip=True, crop="random", threads=threads, workers=workers
    )
    for _ in range(2 * threads * max(1, workers) + 4):
        next(stream)
    started, drawn = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        next(stream)
        drawn += batch
    took = time.perf_counter() - started
    stream.close()
    return drawn / took


def demand(size: int, calls: int) -> tuple[int, float]:
    """The batch, and the images per second of the training step at that size: the median of a few calls."""
    import jax
    import jax.numpy as jnp
    import optax

    from sdejax.model.model import Model
    from sdejax.nn.ncsnpp.config import NCSNppConfig
    from sdejax.sde.variance_exploding import VESDE
    from sdejax.training.config import Config, load_config
    from sdejax.training.step import init_state, make_train_step

    configs = Path(__file__).parent.parent / "configs"
    config, batch = {
        32: lambda: (load_config(configs / "emoji32.py"), 64),
        64: lambda: (load_config(configs / "folder64.py"), 4),
        256: lambda: (Config(name="", data="", network=NCSNppConfig.ncsnpp(256), sde=VESDE()), 1),  # pyright: ignore[reportArgumentType]
    }[size]()
    model = Model.create(config.network, config.sde, config.parametrisation, 0, None)
    optimiser = optax.adam(1e-4)
    step = make_train_step(model, config.objective, optimiser, 0.999, config.seed)
    state, images = init_state(model.params, optimiser), jnp.zeros((batch, *model.shape))
    times = []
    for _ in range(calls + 1):
        started = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, images, None))
        times.append(time.perf_counter() - started)
    return batch, batch / float(np.median(times[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each row is drawn from")
    parser.add_argument("--count", type=int, default=256, help="how many pictures of each kind, fewer of the largest")
    parser.add_argument("--sizes", type=int, nargs="*", default=[32, 64, 256], help="whose training step is timed")
    arguments = parser.parse_args()
    demands = {}
    for size in arguments.sizes:
        batch, demands[size] = demand(size, 3 if size == 256 else 7)
        print(f"training step at {size} pixels, batch {batch}: {demands[size]:.2f} images/s", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        print("\n| files | images | " + " | ".join(f"{t} threads, {w} workers" for t, w in HOW) + " | best / step |")
        print("|" + "---|" * (3 + len(HOW)))
        for number, (name, (pixels, kind, size)) in enumerate(SETS.items()):
            folder = Path(temporary) / str(number)
            write(folder, list(pictures(pixels, kind, min(arguments.count, 2**27 // pixels**2))))
            images = open_images(folder / "tree")
            rates = [rate(images, size, *how, arguments.seconds) for how in HOW]
            over = f"{max(rates) / demands[size]:.0f}" if size in demands else ""
            print(f"| {name} | {size} | " + " | ".join(f"{found:.0f}" for found in rates) + f" | {over} |", flush=True)
        print("\n| format | 32 PNG, 2 threads | 256 JPEG, 2 threads |\n|---|---|---|")
        cache = Path(temporary) / "cache"
        sets = [Path(temporary) / str(list(SETS).index(name)) for name in ("32 PNG", "256 JPEG")]
        for kind, name in FORMATS.items():
            small, large = (open_images(folder / name, cache=cache) for folder in sets)
            rates = [rate(small, 32, 2, 0, arguments.seconds), rate(large, 256, 2, 0, arguments.seconds)]
            print(f"| {kind} | {rates[0]:.0f} | {rates[1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
