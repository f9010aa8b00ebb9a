"""What is checked, as sessions that a computer of one's own, `.ci/run` and GitHub run alike: `nox --list` names them.

`nox -s tests` makes a fresh environment and runs one, `nox -R -s tests` uses the environment of last time. What follows
`--` goes to pytest: `nox -s tests -- -k Huber`.
"""

from __future__ import annotations

import configparser
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "virtualenv"

ROOT = Path(__file__).parent
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
OLDEST = ["numpy==1.26.*", "pydantic==2.11.*", "confection==1.3.4", "catalogue==2.0.10"]
"""The oldest dependencies, for the oldest Python."""
FRAMEWORKS = ["torch==2.13.0", "jax==0.10.2"]
"""Installed first and with these versions, since nothing else of lossreg limits them."""
KAULDRON = [
    "cloudpickle", "einops", "etils[epath,epy]", "flax==0.12.8", "immutabledict", "jaxtyping", "lark", "ml_collections",
    "optax==0.2.8", "typeguard",
]  # fmt: skip
"""What Kauldron's losses and metrics import; its data pipelines would need TensorFlow."""
QUICK = ["--sections", "times", "--only", "smoothl1", "--small", "--runs", "1"]
"""The shortest run of the benchmarks."""


def dev_tool(name: str) -> str:
    """A tool with its version, from the extra `dev` of setup.cfg."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = settings["options.extras_require"]["dev"].split()
    return next(line for line in lines if re.match(r"[\w-]+", line)[0] == name)


@nox.session
def tests(session: nox.Session) -> None:
    """The suite without the slow tests, with the compiled backend: the README's command."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "-q", "-n", "auto", *session.posargs)


@nox.session
def tests_all(session: nox.Session) -> None:
    """The suite with the slow tests and all optional parts, and random config texts."""
    session.install(*FRAMEWORKS)
    session.install("-e", ".[all]", "spacy>=3.8.18", "pandas")
    with_what_can_be_installed(session)
    session.run("python", "-m", "pytest", "-q", "-n", "2", "-m", "not gpu", *session.posargs)
    if not session.posargs:
        session.log("compiled code with seven threads")
        files = ["tests/laws/test_laws.py", "tests/losses"]
        seven = {"LOSSREG_NUM_THREADS": "7"}
        session.run("python", "-m", "pytest", "-q", "-n", "2", "-k", "llvm", *files, env=seven)
        session.run("python", "tests/fuzz_config.py", "20000")


def with_what_can_be_installed(session: nox.Session) -> None:
    """Kauldron, and the compiler of CUDA texts, which needs no GPU: tests of what is not there are skipped."""
    try:
        session.install("nvidia-cuda-nvrtc-cu12")
    except CommandFailed:
        session.warn("NVRTC cannot be installed: tests/backends/test_cuda_text.py will be skipped")
    try:
        session.install("--no-deps", "kauldron==1.4.2")
        session.install(*KAULDRON)
        session.run("python", "-c", "import kauldron.losses, kauldron.metrics", silent=True)
    except CommandFailed:
        session.warn("Kauldron cannot be installed: its formulas in NumPy are compared alone")
        session.run("python", "-m", "pip", "uninstall", "-q", "-y", "kauldron")


@nox.session(python=PYTHONS)
def minimal(session: nox.Session) -> None:
    """The installed package without optional parts; Python 3.10 has the oldest dependencies."""
    session.install(".", "pytest", "pytest-xdist", *(OLDEST if session.python == "3.10" else []))
    # Away from the source, so that what is tested is what was installed. Laws run on one backend: `tests` has them all.
    elsewhere = Path(session.create_tmp()) / "elsewhere"
    shutil.rmtree(elsewhere, ignore_errors=True)
    elsewhere.mkdir()
    for folder in ("tests", "configs", "docs"):
        shutil.copytree(ROOT / folder, elsewhere / folder, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    for file in (*ROOT.glob("*.md"), ROOT / "LICENSE", ROOT / "setup.cfg", ROOT / "pyproject.toml"):
        shutil.copy(file, elsewhere)
    session.chdir(elsewhere)
    # What differs between Pythons is seen without the laws, which take half of the time.
    folders = ["tests"]
    if session.python != "3.10":
        folders = [f"tests/{name}" for name in ("config", "docs", "labels", "losses", "states")]
    session.run("python", "-m", "pytest", "-q", "-n", "auto", "-k", "not generic", *folders, *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Types of the package."""
    session.install("-e", ".[jit]", dev_tool("mypy"))
    session.run("mypy", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting, the direction of imports, and a table of how the code reads."""
    session.install(dev_tool("ruff"), dev_tool("import-linter"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-logo", env={"PYTHONPATH": str(ROOT)})
    session.run("python", "tools/readability.py")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as HTML, with warnings as errors."""
    session.install("-e", ".[docs]")
    session.run("python", "-m", "sphinx", "-q", "-W", "-b", "html", "docs", "docs/_build/html")


@nox.session
def build(session: nox.Session) -> None:
    """Source and wheel, in dist/, and whether they hold what they should."""
    session.install(dev_tool("build"))
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("python", "-m", "build", ".", silent=True)
    check_distributions(session, ROOT / "dist")


def check_distributions(session: nox.Session, folder: Path) -> None:
    """The wheel holds the package alone, the source all that a packager needs."""
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as file:
        wheel = file.namelist()
    with tarfile.open(next(folder.glob("*.tar.gz"))) as file:
        source = file.getnames()
    if "lossreg/py.typed" not in wheel:
        session.error("wheel: no lossreg/py.typed")
    for name in wheel:
        if name.startswith(("tests", "docs", "configs", "tools", "noxfile")):
            session.error(f"wheel: {name} does not belong there")
    example = ["docs/index.md", "docs/examples/digits.cfg", "docs/examples/data/digits.csv.gz"]
    for name in ["LICENSE", "CONTRIBUTING.md", "SECURITY.md", "tests/support/table.py", "noxfile.py", *example]:
        if not any(path.endswith(f"/{name}") for path in source):
            session.error(f"source: no {name}")
    session.log(f"wheel: {len(wheel)} files, source: {len(source)} files")


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Whether the benchmarks run; with arguments, what they say: `nox -s benchmarks -- --sections times`."""
    session.install("-e", ".[jit]", "matplotlib")
    session.run("python", "-m", "benchmarks", *(session.posargs or QUICK))
    session.run("python", "-m", "benchmarks.gpu", "--help", silent=True)
