"""The shape of the tree: who imports whom, what is imported where, sizes, a test per module."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sdlms"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
SOURCES = [name for name in MODULES if not name.endswith("__init__.py")]

EVERYONE = {"errors", "progress"}
BELOW = {
    *("acts", "chain", "command", "dynamic", "explorer", "figures", "lens", "models", "numerics"),
    *("options", "probes", "report", "runs", "sae", "scaling", "storage", "structure", "tasks"),
}
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "__main__": {"cli"},
    "assets": set(),
    "cli": {"command", "options", "runs", "stages", "tools"},
    "stages": BELOW,
    "tools": BELOW,
    "explorer": {"acts", "lens", "models", "numerics", "storage", "runs"},
    "lens": {"models", "numerics", "storage", "runs"},
    "probes": {"acts", "models", "numerics", "storage", "runs"},
    "sae": {"acts", "models", "numerics", "storage", "runs"},
    "structure": {"acts", "models", "numerics", "sae", "storage", "runs"},
    "dynamic": {"acts", "models", "numerics", "sae", "storage", "runs"},
    "scaling": {"numerics", "storage", "runs"},
    "acts": {"models", "storage", "numerics", "runs"},
    "models": {"numerics", "storage"},
    "figures": {"storage", "runs"},
    "report": {"figures", "storage", "runs"},
    "command": {"options", "runs", "storage"},
    "options": set(),
    "tasks": {"runs", "storage"},
    "chain": {"runs", "storage"},
    "runs": {"storage"},
    "numerics": set(),
    "storage": set(),
    "errors": set(),
    "progress": set(),
}
OWNERS = {
    "transformers": {"models"},
    "sae_lens": {"sae"},
    "h5py": {"storage"},
    "typer": {"cli", "command", "tools"},
    "matplotlib": {"figures"},
    "datasets": {"storage"},
    "pyarrow": {"storage"},
    "accelerate": {"models"},
    "igraph": {"structure"},
    "networkx": {"structure"},
    "sklearn": {"probes", "structure"},
    "scipy": {"numerics", "probes", "sae", "structure"},
    "threadpoolctl": {"models", "probes", "sae"},
    "fastapi": {"explorer"},
    "orjson": {"explorer"},
    "pydantic": {"explorer"},
    "starlette": {"explorer"},
    "uvicorn": {"explorer"},
}
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
HEAVY = ["torch", "transformers", "sae_lens", "networkx", "pandas", "h5py", "numpy"]
HEAVY += ["accelerate", "datasets", "fastapi", "igraph", "pyarrow", "sklearn", "scipy", "uvicorn"]


def layer_of(name: str) -> str:
    """The layer of a module, from its path below sdlms/ or its dotted name behind `sdlms.`."""
    return name.removesuffix(".py").replace("/", ".").partition(".")[0]


def imports_in(source: str, *, typing: bool) -> Iterator[str]:
    """Dotted names that a source imports anywhere; with `typing` those for type checkers too."""
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting.extend(node.orelse if not typing else ast.iter_child_nodes(node))
            continue
        waiting.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def forbidden_imports(name: str, source: str) -> set[str]:
    """What the module `name` imports against the import table."""
    layer = layer_of(name)
    assert layer in MAY_IMPORT, f"say in MAY_IMPORT where sdlms/{name} belongs"
    allowed = (MAY_IMPORT[layer] | EVERYONE | {layer}) - ({layer} & {"stages"})
    found = set()
    for imported in imports_in(source, typing=True):
        first, _, rest = imported.partition(".")
        if first in ("tests", "notebooks", "benchmarks", "scripts"):
            found.add(imported)
        elif first == "sdlms" and layer_of(rest) not in allowed:
            found.add(imported)
    for imported in imports_in(source, typing=False):
        owners = OWNERS.get(imported.partition(".")[0])
        if owners is not None and layer not in owners:
            found.add(imported)
    pickles = {i for i in imports_in(source, typing=True) if i.partition(".")[0] in PICKLES}
    return found | (pickles - {"pickle.UnpicklingError"})  # an error that torch raises


def forbidden_calls(source: str) -> list[str]:
    """Calls of `print`, and of what pickles without saying so.

    `torch.load(..., weights_only=True)` unpickles nothing but tensors: lenses of others come so.
    """
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    safe = [call for call in calls if "weights_only=True" in map(ast.unparse, call.keywords)]
    names = [ast.unparse(call.func) for call in calls if call not in safe]
    pickling = [ast.unparse(k) for c in calls for k in c.keywords if k.arg == "allow_pickle"]
    return [n for n in names if n in ("print", "torch.save", "torch.load")] + pickling


def long_functions(source: str, most: int) -> list[str]:
    """Functions of more than `most` lines."""
    tree = ast.parse(source)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    return [f.name for f in functions if (f.end_lineno or 0) - f.lineno + 1 > most]


@pytest.mark.parametrize("name", MODULES)
def test_imports_follow_the_table(name: str) -> None:
    assert not forbidden_imports(name, (PACKAGE / name).read_text())


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("stages/probe.py", "from sdlms.stages.capture import Config"),
        ("stages/probe.py", "from sdlms.stages import capture"),
        ("stages/probe.py", "from sdlms import stages"),
        ("stages/probe.py", "def run():\n    from sdlms.stages import capture"),
        ("stages/probe.py", "from sdlms.cli import main"),
        ("tools/runs.py", "from sdlms.stages import capture"),
        ("models/loading.py", "from sdlms.acts import capturing"),
        ("models/loading.py", "from sdlms.runs.reading import Run"),
        ("storage/flat.py", "import sdlms.numerics.sparsity"),
        ("numerics/sparsity.py", "from sdlms.storage import files"),
        ("runs/writing.py", "from sdlms.command import execute"),
        ("tasks.py", "from sdlms.models.layers import layers_of"),
        ("options.py", "import typer"),
        ("stages/capture.py", "import typer"),
        ("stages/capture.py", "def run():\n    import transformers"),
        ("models/loading.py", "import h5py"),
        ("acts/statistics.py", "from h5py import File"),
        ("acts/statistics.py", "import sae_lens"),
        ("storage/flat.py", "import pickle"),
        ("figures/sizes.py", "from sdlms.models import loading"),
        ("runs/writing.py", "import tests.test_layout"),
    ],
)
def test_each_rule_is_enforced(name: str, line: str) -> None:
    assert forbidden_imports(name, line)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("stages/probe.py", "from sdlms.acts.statistics import Rule"),
        ("stages/probe.py", "if TYPE_CHECKING:\n    from transformers import PreTrainedModel"),
        (
            "runs/writing.py",
            "from sdlms.runs.meta import META\nfrom sdlms.storage.files import sync",
        ),
        ("command.py", "import typer\nfrom sdlms.options import Option"),
        ("models/loading.py", "import transformers\nfrom sdlms.errors import UserError"),
        ("numerics/sparsity.py", "from sdlms.progress import LOGGER\nimport torch"),
    ],
)
def test_what_the_table_allows_passes(name: str, line: str) -> None:
    assert not forbidden_imports(name, line)


def test_calls_that_are_forbidden_are_seen() -> None:
    source = "print(1)\ntorch.load(path)\nnp.load(path, allow_pickle=True)\nLOGGER.info(print)"
    assert forbidden_calls(source) == ["print", "torch.load", "allow_pickle=True"]
    assert forbidden_calls("torch.load(path, weights_only=False)") == ["torch.load"]
    assert not forbidden_calls("torch.load(path, weights_only=True)")


@pytest.mark.parametrize("name", MODULES)
def test_no_print_and_no_pickle(name: str) -> None:
    assert not forbidden_calls((PACKAGE / name).read_text())


@pytest.mark.parametrize("name", MODULES)
def test_files_and_functions_stay_readable(name: str) -> None:
    source = (PACKAGE / name).read_text()
    assert len(source.splitlines()) <= 300
    assert not long_functions(source, 60)


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "__main__.py"])
def test_every_module_has_its_test_file(name: str) -> None:
    module = Path(name)
    assert (ROOT / "tests" / module.parent / f"test_{module.name}").is_file()


def test_packages_are_empty_but_for_their_modules() -> None:
    doors = {"acts/__init__.py"}  # the one public door
    packages = set(MODULES) - set(SOURCES) - doors
    assert not [name for name in packages if (PACKAGE / name).read_text()]


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["capture", "--help"],
        ["sae-train", "--help"],
        ["sae-latents", "--help"],
        ["sae-evaluate", "--help"],
        ["probe", "--help"],
        ["si-modularity", "--help"],
        ["dynamic-k", "--help"],
        ["logit-lens", "--help"],
        ["scaling", "--help"],
        ["report", "--help"],
        ["explore", "--help"],
        ["pipeline", "--help"],
        ["runs", "--help"],
        ["models", "--help"],
    ],
)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    program = (
        "import sys\n"
        "from sdlms.cli import main\n"
        f"try:\n    main({words!r})\n"
        "except SystemExit as stopped:\n    assert not stopped.code\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage: sdlms" in done.stdout
