"""The documentation: its offline snippets run, quotes are right, its links lead somewhere."""

import ast
import importlib
import inspect
import re
import shlex

import pytest
from command_lines import assert_parses
from snippets import PAGES, ROOT, check, check_here, snippets

_EXCERPT = re.compile(
    r"^```(?:python|c|sh|toml)\n(?:# |/\* )(examples/\S+)(?: \*/)?\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\]\((?!https?://)([^)#]+)[^)]*\)")


@pytest.mark.parametrize("snippet", snippets("offline"), ids=str)
def test_snippet_runs_and_prints_what_the_page_says(snippet, monkeypatch):
    monkeypatch.chdir(ROOT)
    # What sets up logging does so for its process, so it gets one of its own.
    run = check if "import logging" in snippet.code else check_here
    run(snippet)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


EXCERPTS = [
    pytest.param(page, match[1], match[2], id=f"{page.name}-{match[2].splitlines()[0][:50]}")
    for page in PAGES
    for match in _EXCERPT.finditer(page.read_text(encoding="utf-8"))
]


def test_there_are_excerpts():
    assert len(EXCERPTS) > 10


@pytest.mark.parametrize(("page", "file", "code"), EXCERPTS)
def test_excerpts_are_what_the_file_says(page, file, code):
    assert code in (ROOT / file).read_text(encoding="utf-8"), f"{page.name} quotes {file} wrongly"


FRAGMENTS = {
    "README.md": "tests, as docs/testing-programs.md has them whole",
    "attaching.md": "a device eth0",
    "command-line.md": "mistakes that a type checker finds; tests/checkers has them checked",
    "events.md": "trio and anyio; who calls bpf_printk; a part of a program",
    "getting-started.md": "two objects and a trampoline, as in tests/kernel/test_tracing.py",
    "life-of-an-object.md": "the reader's own program",
    "performance.md": "two ways of writing a loop",
    "privileges-and-kernels.md": "BPF filesystems that delegate, as in tests/kernel/test_tokens.py",
    "services-and-containers.md": "pins that are to stay",
    "testing-kernels.md": "virtual machines, as in tests/kernel",
}
"""Pages with Python that is not run, and what it would need."""

_PYTHON = re.compile(r"^```python *([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_is_run_or_an_excerpt_or_a_fragment(page):
    """Fragments are Python, too, and their pages are known."""
    fragments = 0
    for mark, code in _PYTHON.findall(page.read_text(encoding="utf-8")):
        assert mark in ("", "offline", "live"), mark
        if not mark and not code.startswith("# examples/"):
            fragments += 1
            compile(code, page.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
    assert bool(fragments) == (page.name in FRAGMENTS)
    assert fragments <= 3


TEXTS = {
    "command-line.md": ["the JSON contract", "lines of run --json"],
    "privileges-and-kernels.md": ["an error with a token"],
    "tracer-from-scratch.md": ["a .gitignore", "what a failing test says"],
}
"""Texts that no test compares, by page: neither a transcript nor what a snippet prints."""

_OTHER_TEXT = re.compile(r"^(?:(?!```).*\n)\n```text\n(?!\$ )", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_texts_are_compared_or_known(page):
    found = _OTHER_TEXT.findall(page.read_text(encoding="utf-8"))
    assert len(found) == len(TEXTS.get(page.name, ())), found


_SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:^|[\s(])pybpfload ([^|>;&)\n]*)", re.MULTILINE)
COMMAND_LINES = [
    pytest.param(line, id=f"{page.name}: {line[:50].strip()}")
    for page in PAGES
    for block in _SHELL.findall(page.read_text(encoding="utf-8"))
    for line in _COMMAND.findall(re.sub(r" +# .*", "", block))
]


def test_there_are_command_lines():
    assert len(COMMAND_LINES) > 12


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_command_lines_parse(line):
    assert_parses(shlex.split(line))


# The rows of the families in docs/attaching.md, by how they begin, and who attaches them.
FAMILIES = {
    "`fentry`": ["tracing"],
    "`fentry.multi`": ["tracing_multi"],
    "`freplace`": ["tracing"],
    "`raw_tp`": ["raw_tracepoint"],
    "`tp`": ["tracepoint"],
    "`iter`": ["iter"],
    "`kprobe`": ["kprobe"],
    "`ksyscall`": ["kprobe"],
    "`kprobe.multi`": ["kprobe_multi"],
    "`uprobe`": ["uprobe"],
    "`uprobe.multi`": ["uprobe_multi"],
    "`usdt`": ["usdt"],
    "`perf_event`": ["perf_event"],
    "`xdp`": ["xdp"],
    "`xdp/devmap`": [],
    "`tcx/ingress`": ["tc"],
    "`tc`": ["tc"],
    "`cgroup...`": ["cgroup"],
    "`sk_lookup`": ["netns"],
    "`netfilter`": ["netfilter"],
    "`socket`": ["sockets"],
    "`sk_skb/...`": ["sockets"],
    "`lwt_in`": ["lwt"],
    "`lwt_seg6local`": ["lwt"],
    "`lirc_mode2`": ["lirc"],
    "`.struct_ops`": [],
    "`syscall`": [],
}


def test_families_of_attachments_take_the_options_that_they_are_said_to_take():
    text = (ROOT / "docs" / "attaching.md").read_text(encoding="utf-8")
    table = text[text.index("## Families") :].split("\n\n")[1]
    rows = [row.strip("| ").split(" | ") for row in table.splitlines()[2:]]
    assert [re.match(r"`[^`]+`", sections)[0] for sections, *_ in rows] == list(FAMILIES)
    options = set()
    for (sections, how, _), modules in zip(rows, FAMILIES.values(), strict=True):
        module = [importlib.import_module(f"pybpfload.runtime.attach.{name}") for name in modules]
        known = {name for each in module for name in inspect.signature(each.attach).parameters}
        said = set(re.findall(r"\b(\w+)=", how)) if modules else set()
        assert said <= known, sections
        options |= said
    assert len(options) > 25
