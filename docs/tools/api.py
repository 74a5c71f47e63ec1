"""Writes docs/api.md: signatures and docstrings of what other code may call, subclass or declare.

    python docs/tools/api.py

Signatures are as they are written, so the page is the same on each Python. `tests/test_docs.py` compares
the page with the code. What is not on it may change without notice.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

DOCS = Path(__file__).parent.parent
PAGE = DOCS / "api.md"
ROOT = DOCS.parent

SECTIONS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "Methods and their parts": (
        "What a file of your own declares, and what each kind of part takes and returns.",
        {
            "qgf_guide.parts": (),
            "qgf_jax.methods.parts": (),
            "qgf_jax.methods.policies": (),
            "qgf_jax.methods.critics": (),
            "qgf_jax.methods.samplers": (),
            "qgf_guide.rules": (),
            "qgf_jax.methods.table": ("row", "Method"),
        },
    ),
    "Types": (
        "",
        {
            "qgf_jax.types": (
                *("Obs", "Spec", "Batch", "Loss", "Learner", "Summary"),
                "Sample",
            ),
            "qgf_guide.types": ("Velocity", "Critic", "Endpoint"),
            "qgf_jax.core.networks": ("Networks",),
            "qgf_jax.core.encoders": (),
        },
    ),
    "Environments": (
        "",
        {"qgf_jax.envs.families": ("Family", "EnvName", "Env", "Labels")},
    ),
    "Data": (
        "What a format of your own gives, and what a function of rewards takes.",
        {
            "qgf_jax.data.readers.recording": ("Recording", "Episode", "Choice"),
            "qgf_jax.data.formats": ("Rows",),
        },
    ),
    "Configs": (
        "Keys: [config.md](config.md).",
        {"qgf_jax.config": ("make", "load", "update", "plain"), "qgf_guide.bounds": ("Field",)},
    ),
    "Runs": ("", {"qgf_jax.runs.loaded": ("LoadedRun",)}),
}
"""By title: what to say first, and by module the names, or none for the module's docstring. The first
section is `qgf_jax.__all__`."""


def public() -> dict[str, str]:
    """The names of `qgf_jax.__all__`, and the module that each comes from."""
    for node in ast.parse((ROOT / "qgf_jax" / "__init__.py").read_text(encoding="utf-8")).body:
        if (
            _names(node) == {"_HOMES"}
            and isinstance(node, ast.Assign | ast.AnnAssign)
            and node.value
        ):
            return ast.literal_eval(node.value)
    raise LookupError("qgf_jax/__init__.py has no _HOMES")


def source(module: str) -> Path:
    """The file of a module."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def entries(module: str, names: Sequence[str]) -> list[str]:
    """Markdown of each name: heading, signature, docstring. Without names, the module's docstring.

    Names that one statement declares together are one entry.
    """
    tree = ast.parse(source(module).read_text(encoding="utf-8"))
    if not names:
        return [_heading(module, [module]) + _prose(ast.get_docstring(tree))]
    found: dict[str, str] = {}
    for node, after in zip(tree.body, [*tree.body[1:], ast.Pass()], strict=True):
        if here := [name for name in names if name in _names(node)]:
            found[here[0]] = _heading(module, here) + _render(node, _text(after))
            found |= dict.fromkeys(here[1:], "")
    made = {name: node for node in tree.body for name in _names(node)}.get("__getattr__")
    for name in set(names) - found.keys() if made else ():  # made when it is asked for
        found[name] = _heading(module, [name]) + _prose(ast.get_docstring(made))
    if unknown := set(names) - found.keys():
        raise LookupError(f"{module} has no {sorted(unknown)}: mend the list in docs/tools/api.py")
    return [found[name] for name in names if found[name]]


def _heading(module: str, names: Sequence[str]) -> str:
    where = source(module).relative_to(ROOT)
    return f"### {', '.join(f'`{name}`' for name in names)}\n\n*[{where}](../{where})*\n\n"


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.AnnAssign):
        return {ast.unparse(node.target)}
    if isinstance(node, ast.Assign):
        return {name.id for t in node.targets for name in ast.walk(t) if isinstance(name, ast.Name)}
    return set()


def _text(node: ast.stmt) -> str:
    """The docstring that follows an assignment, if `node` is one."""
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return ""
    return inspect.cleandoc(str(node.value.value))


def _render(node: ast.stmt, after: str) -> str:
    if isinstance(node, ast.FunctionDef):
        return _code(signature(node)) + "\n" + _prose(ast.get_docstring(node))
    if isinstance(node, ast.ClassDef):
        return "\n".join(_class(node))
    value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
    short = value is not None and len(ast.unparse(value)) < 120
    return (_code(ast.unparse(node)) + "\n") * short + _prose(after)


def signature(node: ast.FunctionDef) -> str:
    """`name(arguments) -> result`, over several lines where it is long."""
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    arguments = _arguments(node.args)
    whole = f"{node.name}({', '.join(arguments)}){result}"
    if len(whole) <= 96:
        return whole
    lines = "\n".join(f"    {x}," for x in arguments)
    return f"{node.name}(\n{lines}\n){result}"


def _arguments(arguments: ast.arguments) -> list[str]:
    """Each argument by itself, as `ast` writes a signature of that one alone."""
    plain, defaults = [*arguments.posonlyargs, *arguments.args], list(arguments.defaults)
    given = [None] * (len(plain) - len(defaults)) + defaults
    texts = [_argument(a, d) for a, d in zip(plain, given, strict=True)]
    if arguments.vararg:
        texts.append(f"*{ast.unparse(arguments.vararg)}")
    elif arguments.kwonlyargs:
        texts.append("*")
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    texts += [_argument(a, d) for a, d in pairs]
    return texts + ([f"**{ast.unparse(arguments.kwarg)}"] if arguments.kwarg else [])


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    equals = " = " if argument.annotation else "="
    return ast.unparse(argument) + (f"{equals}{ast.unparse(default)}" if default else "")


def _class(node: ast.ClassDef) -> list[str]:
    """Docstring, fields with what is said of each, and public methods."""
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    lines = [_code(f"class {node.name}({bases})" if bases else f"class {node.name}")]
    lines.append(_prose(ast.get_docstring(node)))
    for field, after in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
        if isinstance(field, ast.AnnAssign) and not ast.unparse(field.target).startswith("_"):
            lines.append(_bullet(ast.unparse(field), _text(after)))
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
            arguments = [x for x in _arguments(method.args) if x not in ("self", "cls")]
            call = f"{method.name}({', '.join(arguments)})"
            is_property = any(ast.unparse(d).endswith("property") for d in method.decorator_list)
            shown = method.name if is_property else call
            result = f" -> {ast.unparse(method.returns)}" if method.returns else ""
            lines.append(_bullet(shown + result, ast.get_docstring(method)))
    return [*lines, ""]


def _code(text: str) -> str:
    return f"```text\n{text}\n```\n"


def _prose(text: str | None) -> str:
    """A docstring; lines that it indents are code."""
    return f"{_fenced(text or '')}\n"


def _fenced(text: str) -> str:
    paragraphs = text.split("\n\n")
    return "\n\n".join(map(_paragraph, paragraphs))


def _paragraph(text: str) -> str:
    """Indented text is code; text with indented lines below others is a list."""
    if text.startswith("    "):
        return f"```text\n{textwrap.dedent(text)}\n```"
    if "\n    " in text:
        return "\n".join(f"* {item}" for item in re.split(r"\n(?! )", text)).replace(
            "\n    ", "\n  "
        )
    return text


def _bullet(code: str, text: str | None) -> str:
    about = " ".join((text or "").split())
    return f"* `{code}`" + (f": {about}" if about else "")


def page() -> str:
    """The whole page."""
    parts = [
        "# API",
        "",
        "Made from the docstrings by `make docs`: what other code may call, and what it may declare.",
        "Shapes stand in brackets: O observation, G goal, D action (a flattened chunk), B batch.",
        "Methods by name: [methods.md](methods.md). Config keys: [config.md](config.md).",
        "",
        "## `import qgf_jax`",
        "",
    ]
    for name, module in sorted(public().items()):
        parts += entries(module, [name])
    for title, (about, modules) in SECTIONS.items():
        parts += [f"## {title}", "", *([about, ""] if about else [])]
        for module, names in modules.items():
            parts += entries(module, names)
    lines = "\n".join(parts).splitlines()
    kept = [a for a, b in zip(lines, [*lines[1:], "end"], strict=True) if a or b]
    return "\n".join(kept).strip() + "\n"


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
