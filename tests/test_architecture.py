"""The rules of the house: which file may import which, how long a file may be, how light `import sdejax` is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the ground up: a file imports only from rooms above its own in this list. Files that share a line form one room.
ROOMS = [
    ["_version"],
    ["aborts", "hardware", "spans", "storage", "writing"],
    ["executables"],
    ["ahead"],
    ["programs"],
    ["compiling"],
    ["processes"],
    ["peers"],
    ["sde"],
    ["denoiser"],
    ["brownian"],
    ["parallel"],
    ["sampler"],
    ["problem"],
    ["diffrax_terms"],
    ["solve"],
    ["sample"],
    ["edit"],
    ["edit.coupled"],
    ["edit.sdedit", "edit.sync_sde", "edit.inversion", "edit.restore"],
    ["edit.baselines"],
    ["likelihood", "realism", "balance"],
    ["nn"],
    ["nn.few_rows"],
    ["nn.conv"],
    ["nn.layers"],
    ["nn.resample"],
    ["nn.blocks"],
    ["nn.text"],
    ["nn.architecture"],
    ["nn.ncsnpp"],
    ["nn.names"],
    ["model"],
    ["generate"],
    ["training"],
    ["images"],
    ["guides"],
    ["inputs"],
    ["config"],
    ["checkpoint"],
    ["pretrained"],
    ["pretrained.layout", "pretrained.torch_files"],
    ["pretrained.weights", "pretrained.unet2d"],
    ["pretrained.diffusers", "pretrained.score_sde", "pretrained.ddpm", "pretrained.hub"],
    ["loading"],
    ["plan"],
    ["transfer"],
    ["progress", "pictures", "shards", "sheet"],
    ["sinks"],
    ["produce"],
    ["manifest"],
    ["metrics", "methods"],
    ["evaluation"],
    ["evaluation.perceptual", "evaluation.edits"],
    ["evaluation.emoji_edits", "evaluation.run"],
    ["evaluation.report"],
    ["arguments"],
    ["commands"],
    ["commands.run", "commands.editing"],
    ["commands.wishes"],
    ["commands.edit", "commands.sync", "commands.sample", "commands.strokes", "commands.transfer", "commands.env"],
    ["commands.evaluate", "commands.plan", "commands.warmup"],
    ["cli"],
]
FLOOR = {name: floor for floor, names in enumerate(ROOMS) for name in names}
NUMERICS = FLOOR["nn"]  # the rooms below this floor know no network
NETWORKS = {"flax", "optax", "orbax"}


def modules():
    """Every file of the library by its dotted name, `__init__` of the package itself left out: it imports lazily."""
    for path in sorted((ROOT / "sdejax").rglob("*.py")):
        parts = path.relative_to(ROOT / "sdejax").with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if name:
            yield name, path


def imports(name, path):
    """The dotted names that a file imports, anywhere in it, relative ones resolved."""
    package = ["sdejax", *name.split(".")]
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def room(imported):
    """The room of the library that an imported name lies in, or None for names outside of it."""
    parts = imported.split(".")
    if parts[0] != "sdejax":
        return None
    return next((".".join(parts[1:n]) for n in range(len(parts), 1, -1) if ".".join(parts[1:n]) in FLOOR), None)


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_file_imports_only_from_above(name, path):
    assert name in FLOOR, f"sdejax/{path.name} is in no room: say where it belongs, in ROOMS"
    for imported in imports(name, path):
        other = room(imported)
        if other is not None and other != name:
            assert FLOOR[other] < FLOOR[name], f"{name} imports {other}, which is not above it"
        top = imported.split(".")[0]
        assert FLOOR[name] >= NUMERICS or top not in NETWORKS, f"{name} imports {imported}"
        assert name == "cli" or top != "train", f"{name} imports {imported}; only cli may"


def test_the_rules_would_notice(tmp_path):
    """The reader of imports sees every form of them, so that the test above can fail."""
    path = tmp_path / "sde.py"
    path.write_text("def f():\n    from .nn import layers\n    import sdejax.training.loop\nfrom sdejax import solve\n")
    found = set(imports("sde", path))
    assert {"sdejax.nn.layers", "sdejax.training.loop", "sdejax.solvers.solve"} <= found
    assert {room(imported) for imported in found} >= {"nn.layers", "solve"}


@pytest.mark.parametrize("folder", ["sdejax", "train"])
def test_no_file_is_longer_than_400_lines(folder):
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")
    }
    assert not {name: lines for name, lines in lengths.items() if lines > 400}


def test_importing_the_library_starts_no_device_and_loads_nothing_heavy():
    code = (
        "import sys, sdejax\n"
        "print(*[name for name in ('flax', 'diffrax', 'optax', 'orbax', 'train') if name in sys.modules])\n"
        "if 'jax' in sys.modules:\n"
        "    from jax._src import xla_bridge\n"
        "    assert not xla_bridge._backends\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
