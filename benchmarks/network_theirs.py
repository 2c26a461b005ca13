"""The peer's side of `benchmarks.network`.

As a program, `python -m benchmarks.network_theirs FOLDER BATCH TASK HOW` prints the peak memory, in MiB, of a process
that only loads the network of a diffusers folder and makes two such calls.
"""

import sys
from collections.abc import Callable

import torch  # pyright: ignore[reportMissingImports]
from diffusers import UNet2DModel  # pyright: ignore[reportMissingImports]

from benchmarks.peak_memory import mebibytes
from tests.peers import image

LABEL = 500.0
THREADS = 2


def call(folder: str, batch: int, task: str, how: str) -> Callable[[], None]:
    """As `network_ours.call`; `how` is "default", "channels_last" or "compile"."""
    torch.set_num_threads(THREADS)
    network = UNet2DModel.from_pretrained(folder, subfolder="unet", low_cpu_mem_usage=False)
    size = network.config["sample_size"]
    shape = (batch, size, size, 3)
    given, noise = (torch.from_numpy(image(n, shape)).permute(0, 3, 1, 2).contiguous() for n in (0, 1))
    label = torch.full((batch,), LABEL)
    if how == "channels_last":
        network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        given, noise = (v.to(memory_format=torch.channels_last) for v in (given, noise))
    if how == "compile":
        network.compile()
    if task == "forward":

        def evaluate() -> None:
            with torch.no_grad():
                network(given, label)

        return evaluate
    optimiser = torch.optim.Adam(network.parameters(), 1e-4)

    def train() -> None:
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(network(given, label).sample, noise).backward()
        optimiser.step()

    return train


if __name__ == "__main__":
    made = call(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
    made()
    made()
    print(mebibytes())
