"""The rules of the house: which room may import which, how long a file or a function may be, how light imports are."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "sdejax"

# Folders are floors, from the ground up: a room imports only from rooms above its own in this list.
FLOORS = [
    "_version",
    "batch_invariance",
    "pytrees",
    "runtime",
    "sde",
    "denoiser",
    "noise",
    "solvers",
    "sampling",
    "edit",
    "density",
    "text",
    "nn",
    "model",
    "media",
    "pretrained",
    "training",
    "jobs",
    "evaluation",
    "commands",
    "__main__",
]
HEART = {"pytrees", "sde", "denoiser", "noise", "solvers", "sampling", "edit", "density"}
# Within runtime, this file and what it imports are all that the heart uses of the machinery.
THIN = {"runtime.jit", "runtime.sharding"}
NO_HEART = {"flax", "optax", "orbax", "fsspec", "grain", "PIL", "tyro"}


def modules():
    """Every file of the library by its dotted name; `__init__` of the package itself imports lazily and is left out."""
    for path in sorted(LIBRARY.rglob("*.py")):
        parts = path.relative_to(LIBRARY).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if name:
            yield name, path


MODULES = dict(modules())


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


def of_library(imported):
    """The file of the library that an imported name lies in, or None for names outside of it."""
    parts = imported.split(".")
    if parts[0] != "sdejax":
        return None
    return next((".".join(parts[1:n]) for n in range(len(parts), 1, -1) if ".".join(parts[1:n]) in MODULES), None)


def room(name):
    return name.partition(".")[0]


def arrows():
    """The imports from file to file, within the library."""
    for name, path in MODULES.items():
        for other in {of_library(imported) for imported in imports(name, path)} - {None, name}:
            yield name, other


@pytest.mark.parametrize("name", MODULES)
def test_a_room_imports_only_from_rooms_above_it(name):
    assert room(name) in FLOORS, f"sdejax/{room(name)} is on no floor: say where it belongs, in FLOORS"
    for other in {of_library(imported) for imported in imports(name, MODULES[name])} - {None}:
        if room(other) != room(name):
            below = FLOORS.index(room(other)) < FLOORS.index(room(name))
            assert below, f"{name} imports {other}, which is not above it"


def test_within_a_room_no_file_imports_itself_by_way_of_others():
    graph = {name: set() for name in MODULES}
    for name, other in arrows():
        if room(name) == room(other) and other != room(other):  # a package's own docstring file imports nothing
            graph[name].add(other)
    seen = {}

    def visit(name, way):
        assert name not in way, f"a circle: {' -> '.join([*way, name])}"
        if name not in seen:
            seen[name] = True
            for other in graph[name]:
                visit(other, [*way, name])

    for name in graph:
        visit(name, [])


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) in HEART])
def test_the_heart_stands_on_jax_alone(name):
    """Of the machinery it imports only `runtime.jit`, and never flax or a library of files."""
    for imported in imports(name, MODULES[name]):
        other = of_library(imported)
        if other is not None:
            allowed = room(other) in HEART or other in ("runtime", "runtime.jit", "batch_invariance")
            assert allowed, f"{name} imports {other}"
        assert imported.split(".")[0] not in NO_HEART, f"{name} imports {imported}"


@pytest.mark.parametrize("name", sorted(THIN))
def test_what_the_heart_uses_of_the_machinery_is_thin(name):
    for imported in imports(name, MODULES[name]):
        other = of_library(imported)
        assert other is None or other in THIN | {"runtime", "pytrees", "batch_invariance"}, f"{name} imports {other}"
        assert imported.split(".")[0] not in NO_HEART, f"{name} imports {imported}"


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) == "nn"])
def test_networks_know_nothing_of_processes_or_machinery(name):
    for imported in imports(name, MODULES[name]):
        other = of_library(imported)
        assert other is None or room(other) in {"nn", "text", "pytrees", "batch_invariance"}, f"{name} imports {other}"


def test_the_rules_would_notice(tmp_path):
    """The reader of imports sees every form of them, so that the tests above can fail."""
    path = tmp_path / "base.py"
    path.write_text("def f():\n    from ..nn import layers\n    import train.emoji\nfrom sdejax.solvers import solve\n")
    found = set(imports("sde.base", path))
    assert {"sdejax.nn.layers", "train.emoji", "sdejax.solvers.solve"} <= found
    assert {of_library(imported) for imported in found} >= {"nn.layers", "solvers.solve"}


def test_no_file_is_longer_than_400_lines():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for folder in ("sdejax", "train")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert not {name: lines for name, lines in lengths.items() if lines > 400}


def test_no_function_is_longer_than_60_lines():
    """Its docstring does not count: it is there to be read."""
    long = {}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                docstring = node.body[0] if ast.get_docstring(node) else None
                lines = (node.end_lineno or 0) - node.lineno + 1
                lines -= (docstring.end_lineno or 0) - docstring.lineno + 1 if docstring else 0
                if lines > 60:
                    long[f"{name}.{node.name}"] = lines
    assert not long


def test_each_class_has_a_name_of_its_own():
    """One word, one thing: no two public classes of the library are called alike."""
    homes = {}
    for name, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(name)
    assert not {name: files for name, files in homes.items() if len(files) > 1}


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_the_library_starts_no_device_and_loads_nothing_heavy():
    code = (
        "import sys, sdejax\n"
        "print(*[name for name in ('jax', 'flax', 'diffrax', 'optax', 'orbax', 'fsspec') if name in sys.modules])\n"
    )
    assert run(code) == []


def test_the_heart_loads_without_flax_or_files():
    code = (
        "import sys, sdejax as sj\n"
        "sj.sample, sj.sdedit, sj.sync_sde, sj.restore, sj.fire_flow, sj.Sampler(), sj.VPSDE()\n"
        "print(*[name for name in ('flax', 'diffrax', 'optax', 'orbax', 'fsspec', 'PIL') if name in sys.modules])\n"
    )
    assert run(code) == []


def test_reading_a_snapshot_loads_nothing_of_training():
    code = (
        "import sys, sdejax as sj\n"
        "sj.load('checkpoints/emoji32')\n"
        "heavy = ('sdejax.training', 'orbax', 'grain', 'torch', 'diffrax')  # flax.nnx itself imports optax\n"
        "print(*[name for name in heavy if name in sys.modules])\n"
    )
    assert run(code) == []


def test_every_public_name_is_there():
    import sdejax

    assert [name for name in dir(sdejax) if not hasattr(sdejax, name)] == []
    assert callable(sdejax.edit)
