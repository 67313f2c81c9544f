"""The order of the rooms: imports only point down, no file imports itself by way of others, names are not shadowed."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import autosample

PACKAGE = Path(autosample.__file__).parent
#: Lower first; rooms of one line do not import each other.
LAYERS = (
    ("errors",), ("system",), ("coding",), ("sampling",), ("reuse",), ("nn",), ("models",), ("model",),
    ("deployment", "artifact"), ("budget", "export"), ("training", "data"), ("experiments",), ("cli",),
)  # fmt: skip
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
FILES = {
    ".".join(("autosample", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def is_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(node: ast.AST, late: bool, typing: bool):
    """`(module, whether inside a function, whether for type checkers only)` of every import below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, late, typing) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            whole = [f"{child.module}.{alias.name}" for alias in child.names]
            yield from ((name if name in FILES else child.module, late, typing) for name in whole)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(child, late or inside, typing or is_typing(child))


def own(name: str) -> list[tuple[str, bool, bool]]:
    found = imports(ast.parse(FILES[name].read_text()), False, False)
    return [one for one in found if one[0].partition(".")[0] == "autosample"]


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("name", sorted(name for name in FILES if room(name) not in ("", "__main__")))
def test_imports_point_down(name):
    for module, _, _ in own(name):
        same = room(module) == room(name)
        assert same or module == "autosample" or LEVEL[room(module)] < LEVEL[room(name)], f"{name} imports {module}"


def test_no_file_imports_itself_by_way_of_others():
    graph = {name: {m for m, late, typing in own(name) if not (late or typing) and m != name} for name in FILES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_function_hides_a_module():
    for name, path in FILES.items():
        if path.name != "__init__.py":
            continue
        beside = {p.stem for p in path.parent.glob("*.py")} | {p.name for p in path.parent.iterdir() if p.is_dir()}
        for node in ast.walk(ast.parse(path.read_text())):
            for alias in node.names if isinstance(node, ast.ImportFrom) else ():
                shown = alias.asname or alias.name
                assert shown not in beside or f"{node.module}.{alias.name}" in FILES, f"{name}.{shown} hides a module"
