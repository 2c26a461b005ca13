"""The command line: from words to a verb. Bad input is one sentence and exit code 2, and nothing is written."""

import atexit
import dataclasses
import gc
import importlib
import importlib.metadata
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import cast

from sdejax.commands.command import VerbFile


@dataclasses.dataclass(frozen=True)
class Verb:
    """A verb: its file in this folder, and what it does. Only the file of the verb that is asked for is imported."""

    file: str
    summary: str


VERBS = {
    "edit": Verb("edit", "turn a guide (strokes, a composite, a photo) into an image of the model, by SDEdit"),
    "sync": Verb("sync", "edit an image by what two prompts differ in, by sync-SDE"),
    "sample": Verb("sample", "draw images from noise"),
    "strokes": Verb("strokes", "make a stroke painting of a picture, as a guide for edit"),
    "train": Verb("train", "train a model on a folder of images"),
    "evaluate": Verb("evaluate", "score text edits by several methods, on emoji-edits or on edits of your own"),
    "import": Verb("import_model", "turn other people's weights into a snapshot: diffusers, score_sde, DDPM, hf://"),
    "export": Verb("export_model", "write a snapshot as safetensors and as a diffusers folder"),
    "warmup": Verb("warmup", "compile what sample needs, so that it starts at once"),
    "plan": Verb("plan", "tell the memory, FLOPs, collectives and time on TPUs or GPUs that are not here"),
    "env": Verb("env", "list versions, devices and missing optional packages"),
}
_WIDTH = max(map(len, VERBS))
_USAGE = "\n".join(
    [
        "usage: sdejax VERB ...\n",
        *(f"  {name:{_WIDTH}}  {verb.summary}" for name, verb in VERBS.items()),
        "\nsdejax VERB --help lists the options of a verb; sdejax --version prints the version.",
    ]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, by default that of `sys.argv`.

    **Returns:** the exit code: 0 for success, 2 for bad input, 130 if a person stopped it. It is 1 if a scheduler
    stopped it or another process is gone; the same command then continues.
    """
    _prepare_python()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(importlib.metadata.version("sdejax"))
        return 0
    try:
        return _run(arguments[0], arguments[1:])
    except (ValueError, OSError) as error:
        from sdejax.runtime.errors import PeersGone

        message, code = " ".join(str(error).split()), 1 if isinstance(error, PeersGone) else 2
        print(f"error: {message}", file=sys.stderr)
        _tell_others(message, code)
        return code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        _tell_others("stopped", 130)
        return 130


def _run(name: str, words: Sequence[str]) -> int:
    if name not in VERBS:
        raise ValueError(f"{name!r}: no such verb; the verbs are {', '.join(VERBS)}")
    file = cast(VerbFile, importlib.import_module(f"sdejax.commands.{VERBS[name].file}"))
    return file.from_words(words).execute()


def _prepare_python() -> None:
    """Settings of Python that suit a short-lived process with large modules."""
    # Modules are over a hundred thousand objects that stay. Looking for garbage among them takes a tenth of the time of
    # importing them, and 0.3 s when the process ends.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    # If a check of diffrax fails while a program runs, the result is nan. By default the program calls Python instead,
    # but a program with such a call cannot be kept, and a TPU would wait in it for ever. Images of nan are refused
    # before they are written.
    os.environ.setdefault("EQX_ON_ERROR", "nan")
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _repeat_ctrl_c
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)


def _repeat_ctrl_c(ignored: "sys.UnraisableHookArgs") -> None:
    """Send a Ctrl-C again if it came while Python ignores exceptions, such as during jax's part of the search for
    garbage.
    """
    if issubclass(ignored.exc_type, KeyboardInterrupt) and hasattr(signal, "pthread_kill"):
        main_thread = threading.main_thread().ident
        threading.Timer(0.05, lambda: main_thread and signal.pthread_kill(main_thread, signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(ignored)


def _tell_others(why: str, code: int) -> None:
    """If this is one of several processes that make images, tell the others why it ends."""
    if "sdejax.runtime.peers" in sys.modules:
        sys.modules["sdejax.runtime.peers"].leave_early(why, code)


if __name__ == "__main__":
    sys.exit(main())
