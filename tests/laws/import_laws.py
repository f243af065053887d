"""Imports point down: read from the syntax tree of every file, function bodies too."""

import ast
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

# from the bottom up; a module belongs to the first pattern that matches it
LEVELS = (
    ("taut.errors", "taut.registry", "taut.binary", "taut.views", "taut.cost", "taut.records", "taut.selection")
    + ("taut.layout", "taut.precision", "taut.statistics", "taut.version", "taut.workers", "taut.numeric*"),
    ("taut.*.base", "taut.compressors.coded", "taut.regularizers.annealed"),
    ("taut.compressors*", "taut.regularizers*", "taut.parametrizations*"),
    ("taut.layers", "taut.restore", "taut.resize", "taut.flat", "taut.codec*"),
    ("taut.train", "taut.strengths", "taut.learning_compression", "taut.apply", "taut.shared_codebook")
    + ("taut.reparametrize", "taut.shrink*")
    + ("taut.curve", "taut.measure", "taut.moments", "taut.fronts", "taut.sensitivity", "taut.fewer_inputs", "taut.ranks")
    + ("taut.factor", "taut.objective", "taut.latency", "taut.graph", "taut.runtime", "taut.xnor", "taut.shape_times"),
    ("taut.budget*",),
    ("taut.sweep*", "taut.grid", "taut.report*", "taut.export*", "taut.integrations*", "taut.bench*", "taut.deliver"),
    ("taut.cli*", "taut.__main__"),
    ("taut",),
)
# compositions: each knows its base, and no method
COMPOSITIONS = ("taut.compressors.chain", "taut.regularizers.distance")
METHODS = ("taut.compressors", "taut.regularizers", "taut.parametrizations")
# a package that is imported in these places only
OWNERS = {
    "ray": ("taut.workers",),
    "plotly": ("taut.report*",),
    "matplotlib": ("taut.report*",),
    "onnx": ("taut.export*", "taut.graph"),
    "onnxscript": ("taut.export*", "taut.graph"),
    "onnxruntime": ("taut.export*", "taut.runtime"),
    "lightning": ("taut.integrations.*",),
    "transformers": ("taut.integrations.*",),
    "sklearn": ("taut.bench*",),
    "scipy": ("taut.bench*",),
    "typer": ("taut.cli*",),
    "rich": ("taut.cli*",),
    "constriction": ("taut.codec*",),
    "torch_pruning": ("taut.shrink*",),
}
# these come with an extra: importing taut must work without them
OPTIONAL = ("ray", "plotly", "matplotlib", "onnx", "onnxscript", "onnxruntime", "lightning", "transformers", "sklearn", "scipy")


@dataclass(frozen=True)
class Import:
    """One import statement: what it names, its line, and whether it runs when the module is imported."""

    target: str
    line: int
    eager: bool


@dataclass
class Module:
    name: str
    imports: list[Import] = field(default_factory=list)


def read_modules(src: Path) -> dict[str, Module]:
    """Every module below ``src/taut`` with its imports; those under ``if TYPE_CHECKING`` are annotations, not imports."""
    files = sorted((src / "taut").rglob("*.py"))
    names = {_name(path, src): path for path in files}
    return {name: Module(name, _imports(name, path, set(names))) for name, path in names.items()}


def _name(path: Path, src: Path) -> str:
    parts = path.relative_to(src).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(name: str, path: Path, known: set[str]) -> list[Import]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: list[Import] = []

    def walk(node: ast.AST, eager: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                walk(child, eager)
            return
        found.extend(Import(target, node.lineno, eager) for target in _targets(node, package, known))
        inside = eager and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            walk(child, inside)

    walk(ast.parse(path.read_text(encoding="utf-8")), True)
    return found


def _targets(node: ast.AST, package: str, known: set[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        origin = ".".join([*parents, *([node.module] if node.module else [])])
        return [f"{origin}.{a.name}" if f"{origin}.{a.name}" in known else origin for a in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__", "extra")) and node.args:
        argument = node.args[0]
        return [argument.value] if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else []
    return []


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def level(name: str) -> int:
    """The module's place in the order; a module without one fails, so that each new module is given a place."""
    found = next((i for i, patterns in enumerate(LEVELS) if _matches(name, patterns)), None)
    assert found is not None, f"{name} has no place in the order of imports: add it to LEVELS"
    return found


def check_direction(modules: dict[str, Module]) -> None:
    for module in modules.values():
        for i in module.imports:
            if i.target.split(".")[0] == "taut":
                assert level(i.target) <= level(module.name), f"{module.name}:{i.line} imports {i.target}, which is above it"


def check_siblings(modules: dict[str, Module]) -> None:
    """A method imports no other method of its kind, nor the package that gathers them; a composition imports no method at all."""
    for module in modules.values():
        package, _, last = module.name.rpartition(".")
        if package not in METHODS or last in ("base", "coded", "annealed"):
            continue
        for i in module.imports:
            kinds = METHODS if module.name in COMPOSITIONS else (package,)
            kind = i.target if i.target in METHODS else i.target.rpartition(".")[0]
            is_base = i.target.endswith((".base", ".coded", ".annealed"))
            assert kind not in kinds or is_base, f"{module.name}:{i.line} imports {i.target}; only the base is allowed"


def check_no_cycle(modules: dict[str, Module]) -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, "cycle of imports: " + " -> ".join((*path[path.index(name) :], name))
        if name in done:
            return
        for i in modules[name].imports:
            if i.target in modules:
                visit(i.target, (*path, name))
        done.add(name)

    for name in modules:
        visit(name, ())


def check_owners(modules: dict[str, Module]) -> None:
    """A package with an owner is imported by its owner only, and an optional one only when it is used."""
    for module in modules.values():
        for i in module.imports:
            top = i.target.split(".")[0]
            if top in OWNERS:
                assert _matches(module.name, OWNERS[top]), f"{module.name}:{i.line} imports {top}, which is {OWNERS[top]}'s"
            if top in OPTIONAL:
                assert not i.eager, f"{module.name}:{i.line} imports the optional {top} at import time, not in use"


def check_report_without_torch(modules: dict[str, Module]) -> None:
    """Nothing that the report imports, directly or through others, imports torch."""
    for name in (n for n in modules if n.startswith("taut.report")):
        seen, todo = {name}, [name]
        while todo:
            current = todo.pop()
            for i in modules[current].imports:
                assert i.target.split(".")[0] != "torch", f"{name} reaches torch through {current}:{i.line}"
                if i.target in modules and i.target not in seen:
                    seen.add(i.target)
                    todo.append(i.target)


CHECKS = (check_direction, check_siblings, check_no_cycle, check_owners, check_report_without_torch)
