"""The command line: words to a verb. Bad input is one sentence and exit code 2, with nothing written."""

import atexit
import gc
import importlib
import importlib.metadata
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence

from sdejax.batch_invariance import batch_invariant
from sdejax.commands.arguments import parse

_USAGE = """usage: sdejax VERB ...

  edit    a guide (strokes, a composite, a photo) to an image of the model: SDEdit
  sync    an image by what two prompts differ in: sync-SDE
  sample  images from noise
  strokes a picture as a stroke painting, a guide for edit
  train   a model on a folder of images
  evaluate  text edits by several methods, scored: emoji-edits, or a manifest of your own
  import  other people's weights to a snapshot: diffusers, score_sde, DDPM, hf://
  export  a snapshot to safetensors, and to a diffusers folder
  warmup  compile what sample needs, into the cache from which it then starts at once
  plan    memory, FLOPs, collectives and time on TPUs or GPUs that are not here
  env     versions, devices, what is optional and missing

sdejax VERB --help lists a verb's options."""


# Each verb's file, its options and what it does; only the file of the verb that is asked for is imported.
_VERBS = {
    "edit": ("edit", "Edit", "edit"),
    "sync": ("sync", "Sync", "sync"),
    "sample": ("sample", "Sample", "sample"),
    "strokes": ("strokes", "Strokes", "strokes"),
    "import": ("import_model", "Import", "import_"),
    "export": ("export_model", "Export", "export"),
    "evaluate": ("evaluate", "Evaluate", "evaluate"),
    "warmup": ("warmup", "Warmup", "warmup"),
    "plan": ("plan", "Plan", "plan"),
    "env": ("env", "Env", "env"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code.

    0; 2 for bad input; 130 where the person stopped it; 1 where a scheduler did, or where another process is gone: the
    same command is then to be started again.
    """
    # Modules are over a hundred thousand objects that stay. Looking for garbage among them is a tenth of importing them
    # and 0.3 s at the end, when the process goes anyway.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    # What diffrax checks as its programs run makes nan instead of calling Python: a program with such a call cannot be
    # kept, and a TPU would wait in it for ever. Images of nan are refused before they are written.
    os.environ.setdefault("EQX_ON_ERROR", "nan")
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _hear_again
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    verb, rest = arguments[0], arguments[1:]
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        if verb == "--version":
            print(importlib.metadata.version("sdejax"))
            return 0
        if verb == "train":
            from sdejax.commands.train import main as train

            return train(rest)
        if verb not in _VERBS:
            verbs = [*_VERBS, "train"]
            raise ValueError(f"{verb!r}: no such verb; the verbs are {', '.join(verbs)}")
        file, options, action = _VERBS[verb]
        module = importlib.import_module(f"sdejax.commands.{file}")
        command = parse(getattr(module, options), f"sdejax {verb}", rest)
        with batch_invariant(getattr(getattr(command, "run", None), "batch_invariant", False)):
            return getattr(module, action)(command)
    except (ValueError, OSError) as error:
        from sdejax.runtime.errors import PeersGone

        said, code = " ".join(str(error).split()), 1 if isinstance(error, PeersGone) else 2
        print(f"error: {said}", file=sys.stderr)
        _leave_others(said, code)
        return code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        _leave_others("stopped", 130)
        return 130


def _hear_again(ignored: "sys.UnraisableHookArgs") -> None:
    """A Ctrl-C that came where Python ignores what is raised, as in jax's part of looking for garbage, comes again."""
    if issubclass(ignored.exc_type, KeyboardInterrupt) and hasattr(signal, "pthread_kill"):
        main_thread = threading.main_thread().ident
        threading.Timer(0.05, lambda: main_thread and signal.pthread_kill(main_thread, signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(ignored)


def _leave_others(why: str, code: int) -> None:
    """Where this is one of several processes that make images, it does not end without a word."""
    if "sdejax.runtime.peers" in sys.modules:
        sys.modules["sdejax.runtime.peers"].leave_early(why, code)


if __name__ == "__main__":
    sys.exit(main())
