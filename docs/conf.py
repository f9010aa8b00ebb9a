"""Settings of the documentation: `python -m sphinx -W -b html docs docs/_build/html` from the root of the repository.

Docstrings of lossreg are plain text with a fixed order: a sentence, an indented formula, prose, labels such as
`Shapes:` and `Source:`, options. The hooks below turn that into reStructuredText, so that the docstrings stay readable
where they are.
"""

import contextlib
import importlib
import inspect
import os
import pkgutil
import re
import sys
import types
import typing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import gallery

import lossreg
import lossreg.losses
from lossreg.config.options import INFINITY_ALLOWED, Configurable, positional_order

project = "lossreg"
copyright = "the lossreg contributors"
release = version = lossreg.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "examples", "images"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(confection|catalogue|abc|dataclasses|typing|annotated_types)\..*")]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
add_module_names = False
smartquotes = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"lossreg {version}"
html_static_path = ["_static"]
html_css_files = ["lossreg.css", "gallery.css"]
html_show_sourcelink = False

MARKER = "<!-- reference of all calculators -->"
"""Where the reference goes in its page."""
COMMON = ("reduction", "normalize_by", "validate")
"""Options that every modern calculator has: described once, on the page of the interface."""
IN_THE_INTERFACE = (lossreg.Loss, lossreg.ContextLoss)
"""Classes whose `get_loss` and `get_grad` are described there, too."""
PLACES = {"truths": ":doc:`truths <truths>`"}
"""Words in backticks that are links."""


def calculators():
    """(module, its calculators) for each family of losses."""
    for module in pkgutil.iter_modules(lossreg.losses.__path__, "lossreg.losses."):
        family = importlib.import_module(module.name)
        members = [getattr(family, name) for name in family.__all__]
        classes = [x for x in members if isinstance(x, type) and getattr(x, "names_in_registry", ())]
        if classes:
            yield family, classes


def registered_names(cls):
    """The names of a calculator in config files."""
    return [name.partition(":")[2] for name in cls.names_in_registry]


def public_path(cls):
    """Where users import a calculator from."""
    return f"lossreg.{cls.__name__}" if hasattr(lossreg, cls.__name__) else f"{cls.__module__}.{cls.__name__}"


def reference():
    """The reference of all calculators as Markdown: one section a family, taken from the modules themselves."""
    lines = ["## All names", "", "| name in a config | class |", "| --- | --- |"]
    families = [
        *calculators(),
        (lossreg.terms, [lossreg.Term, lossreg.WeightedSum]),
        (lossreg.mindformers, [lossreg.mindformers.CrossEntropyLoss]),
    ]
    rows = [(name, public_path(cls)) for _, classes in families for cls in classes for name in registered_names(cls)]
    lines += [f"| `{name}` | {{py:class}}`~{path}` |" for name, path in sorted(rows)]
    for family, classes in families:
        title = inspect.getdoc(family).splitlines()[0].rstrip(".")
        lines += ["", f"## {title}", "", "```{eval-rst}"]
        for cls in classes:
            lines += [f".. autoclass:: {public_path(cls)}"]
            own = [name for name, x in vars(cls).items() if inspect.isfunction(x) and name.startswith("get_")]
            on_page_of_interface = ("get_loss", "get_grad") if issubclass(cls, IN_THE_INTERFACE) else ()
            extra = [name for name in own if name not in on_page_of_interface]
            lines += [f"   :members: {', '.join(extra)}"] if extra else []
            lines += [""]
        lines += ["```"]
    return "\n".join(lines)


def add_reference(app, docname, source):
    """Write the reference into its page."""
    source[0] = source[0].replace(MARKER, reference())


def add_gallery(app, docname, source):
    """Draw the pictures of the gallery into the build tree, and write its page."""
    if gallery.MARKER in source[0]:
        import gallery_pictures  # needs matplotlib, which the tests of this file do without

        families = list(gallery.drawn(calculators()))
        classes = [cls for _, members in families for cls in members]
        pictures = Path(app.doctreedir) / "gallery"
        gallery_pictures.draw_all(classes, pictures)
        text = gallery.page(families, kind, Path(os.path.relpath(pictures, app.srcdir)).as_posix())
        source[0] = source[0].replace(gallery.MARKER, text)
        modules = (gallery, gallery_pictures, *(family for family, _ in families))
        for file in (__file__, *(module.__file__ for module in modules)):
            app.env.note_dependency(file)


def to_rst(app, what, name, obj, options, lines):
    """A docstring of lossreg as reStructuredText."""
    is_loss = inspect.isclass(obj) and issubclass(obj, Configurable)
    known = set()
    if is_loss:
        known = set(positional_order(obj))
    elif callable(obj):
        with contextlib.suppress(TypeError, ValueError):
            known = set(inspect.signature(obj).parameters)
    text = [line for line in lines if not line.startswith(":canonical:")]
    body, fields, described = sections(text, known)
    if is_loss:
        if obj.names_in_registry:
            registered = ", ".join(f"``{name}``" for name in registered_names(obj))
            fields.insert(0, ("Name in a config", registered))
        items = option_items(obj, described)
        if items:
            fields.append(("Options", "\n   ".join(["", *items])))
    else:
        fields += [(f"param {key}", markup(text)) for key, text in described.items()]
    lines[:] = body
    if fields:
        lines += ["", *(line for label, text in fields for line in f":{label}: {text}".split("\n")), ""]


LABELS = "Shapes|Gradient with respect to|Kinks?|Errors|Source"
FIELD = re.compile(rf"(?:^|(?<=   ))({LABELS}): +(?=\S)", re.MULTILINE)
OPTION = re.compile(r"(?:^|(?<=   ))([a-z_]+(?:, [a-z_]+)*): (?=\S)", re.MULTILINE)


def sections(lines, known):
    """(reStructuredText lines, labelled fields, descriptions of options) of a docstring."""
    body, fields, described = [], [], {}
    for block in "\n".join(lines).split("\n\n"):
        if not block.strip():
            continue
        if block.startswith("    "):
            body += [".. code-block:: text", "", *block.split("\n"), ""]
            continue
        if block.startswith(">>> "):
            body += [".. code-block:: pycon", "", *("    " + line for line in block.split("\n")), ""]
            continue
        marks = [(m, "field") for m in FIELD.finditer(block)]
        marks += [(m, "option") for m in OPTION.finditer(block) if set(m[1].split(", ")) <= known]
        marks.sort(key=lambda mark: mark[0].start())
        first = marks[0][0].start() if marks else len(block)
        if block[:first].strip():
            body += [markup(block[:first]), ""]
        ends = [m.start() for m, _ in marks[1:]] + [len(block)]
        for (m, kind), end in zip(marks, ends):
            text = block[m.end() : end]
            if kind == "field":
                fields.append((m[1], markup(text)))
            else:
                described |= dict.fromkeys(m[1].split(", "), text)
    return body, fields, described


def markup(text):
    """Plain text with backticks as one paragraph of reStructuredText."""
    pieces = re.split(r"`([^`]+)`", " ".join(text.split()))
    for i, piece in enumerate(pieces):
        if i % 2:
            pieces[i] = link(piece)
        else:
            escaped = re.sub(r"([\\*|_`])", r"\\\1", piece)
            escaped = re.sub(r"(^|[\s(])\\\*(\w+)\\\*(?!\w)", r"\1*\2*", escaped)
            escaped = re.sub(r"doi:([\w./-]*\w)", r"`doi:\1 <https://doi.org/\1>`__", escaped)
            pieces[i] = re.sub(r"arXiv:([\d.]*\d)", r"`arXiv:\1 <https://arxiv.org/abs/\1>`__", escaped)
    return "".join(pieces)


def link(code):
    """A word in backticks: a link where it names something public, else a literal."""
    if code in PLACES:
        return PLACES[code]
    return f":py:class:`~lossreg.{code}`" if inspect.isclass(getattr(lossreg, code, None)) else f"``{code}``"


def option_items(cls, described):
    """A bullet for each option of a class: type, default, description, also those inherited from a mixin."""
    hints = typing.get_type_hints(cls, include_extras=True)
    items = []
    for name in positional_order(cls):
        if name in COMMON and cls is not lossreg.ReducedLoss:
            continue
        text = described.get(name) or inherited(cls, name)
        text = f" {markup(text)}" if text else ""
        default = f"default ``{getattr(cls, name)!r}``" if hasattr(cls, name) else "no default"
        items.append(f"- ``{name}`` ({kind(hints[name])}; {default}){':' if text else ''}{text}")
    return items


def inherited(cls, name):
    """The description of an option in the docstring of a base."""
    for base in cls.__mro__[1:]:
        doc = vars(base).get("__doc__") if issubclass(base, Configurable) and base is not Configurable else None
        if doc and not doc.startswith(f"{base.__name__}("):
            described = sections(inspect.cleandoc(doc).split("\n"), set(positional_order(base)))[2]
            if name in described:
                return described[name]
    return ""


SYMBOLS = {"Gt": ("gt", ">"), "Ge": ("ge", ">="), "Lt": ("lt", "<"), "Le": ("le", "<=")}


def kind(hint):
    """The type of an option in words: `number > 0`, `list of strings or None`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        bounds = []
        for limit in arguments[1:]:
            if limit != INFINITY_ALLOWED:
                key, sign = SYMBOLS[type(limit).__name__]
                bounds.append(f"{sign} {getattr(limit, key)}")
        infinity = " or infinity" if INFINITY_ALLOWED in arguments[1:] else ""
        return f"{kind(arguments[0])} {' and '.join(bounds)}{infinity}"
    if origin is typing.Literal:
        return " or ".join(f"``{value!r}``" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(kind, arguments))
    if inspect.isclass(origin) and issubclass(origin, typing.Sequence):
        return f"list of {kind(arguments[0]).replace('number', 'numbers').replace('string', 'strings')}"
    names = {float: "number", int: "integer", str: "string", bool: "``True`` or ``False``", type(None): "``None``"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def own_options_first(app, what, name, obj, options, signature, returns):
    """Options in the order of `loss.options(all=True)`: a calculator's own before those that all have."""
    if inspect.isclass(obj) and issubclass(obj, Configurable):
        own = [f"{key}={getattr(obj, key)!r}" for key in positional_order(obj) if hasattr(obj, key)]
        return (f"(*, {', '.join(own)})" if own else "()"), returns
    return None


def setup(app):
    """Connect the hooks."""
    app.connect("source-read", add_reference)
    app.connect("source-read", add_gallery)
    app.connect("autodoc-process-docstring", to_rst)
    app.connect("autodoc-process-signature", own_options_first)
