"""What a run shows to people and leaves on disk: no markup of others, no formula, no secret."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from pipeline import open_run
from pipeline.core.text import printable
from pipeline.models.toy import toy_path
from tests.runs import nan_in_the_second, toy_mapping

# Words of prompts; none has a blank in it, so that each is one token.
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "</title></style></head>",
    "<img/src=x/onerror=alert(3)>",
    "<svg/onload=alert(4)>",
    "'\"><iframe/src=javascript:alert(5)>",
    "{{7*7}}{%raw%}",
    "<!--",
    "]]>&lt;b&gt;",
    "\x1b[31mred\x1b[0m",
    "[red]loud[/red]",
    "\u202edesrever",
]


class Page(HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text = set(), [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def speaking_model(folder: Path, words: list[str]) -> Path:
    """The bundled model with a tokenizer of these words."""
    shutil.copytree(toy_path("toy:planted"), folder)
    vocabulary = {word: i for i, word in enumerate(["<unk>", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture
def shown(circuits, config_file, tmp_path):
    """A finished run whose every prompt, answer and model name is hostile."""
    model = speaking_model(tmp_path / "<script>alert(0)<script>[blink]", HOSTILE)
    pairs = [
        {
            "clean": f"{word} {other} {word}",
            "corrupted": f"{other} {word} {word}",
            "answers": [other],
            "wrong_answers": [word],
        }
        for word, other in zip(HOSTILE, HOSTILE[1:] + HOSTILE[:1], strict=True)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs[3:] + pairs[:3]))
    results = []
    for name, first in (
        ("first", pairs[:3]),
        ("second", pairs[3:6]),
        ("third", pairs[6:9]),
        ("last", pairs[9:]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in first))
        results.append({"name": "file", "path": str(tmp_path / f"{name}.jsonl")})
    said = circuits(
        "run",
        config_file(model={"name": str(model)}, tasks=results, methods=[{"name": "eap"}]),
        "--local",
        "--json",
    )
    assert said.code == 0, said.err
    return Path(said.data["path"])


def test_the_report_shows_prompts_as_they_are_written(circuits, shown):
    text = (shown / "report.html").read_text()
    page = Page(text)
    assert not page.tags & {"script", "img", "iframe", "object", "embed", "form", "link", "base"}
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "style")]
    assert all(value.startswith("#") for name, value in page.attributes if name == "href")
    for word in HOSTILE:
        assert word in page.text, word
    assert "<script>alert(0)<script>[blink]" in page.text
    (policy,) = [v for n, v in page.attributes if n == "content" and v and v.startswith("default-src")]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")


def test_tables_show_markup_and_do_not_obey_it(circuits, shown):
    for verb in ("show", "status", "failures"):
        said = circuits(verb, shown)
        assert said.code == 0
        assert all(line.isprintable() for line in said.out.splitlines())
    assert "<script>alert(0)<script>[blink]" in circuits("show", shown).out


def test_printable():
    hostile = "a\x1b]8;;x\x07b\x9b2Jc\r\nd\u202ee\u2028f\ud800g\0"
    assert printable(hostile).isprintable()
    assert printable(hostile).startswith("a\\x1b]8;;x\\x07b\\x9b2Jc\\r\\nd\\u202ee")
    plain = "Zoë’s 東京 café — naïve 😀 x−1"
    assert printable(plain) == plain


def test_no_cell_of_a_csv_file_is_a_formula(circuits, finished, tmp_path):
    """Names are nodes, spans and ids, of an alphabet without = + @ and quotes; a position such as -1 is a number."""
    assert circuits("export", finished, "--format", "csv", "--out", tmp_path).code == 0
    paths = list(tmp_path.rglob("*.csv"))
    assert len(paths) == 2
    for path in paths:
        for row in csv.reader(path.read_text().splitlines()):
            for cell in row:
                assert re.fullmatch(r"|-?[0-9][0-9.e+-]*|[A-Za-z][A-Za-z0-9._<>-]*|inf|nan", cell), cell


# --- secrets -----------------------------------------------------------------------------------------------

SECRETS = {
    name: f"s3cr3t-{name.lower().replace('_', '-')}"
    for name in (
        "HF_TOKEN",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "RAY_AUTH_TOKEN",
        "PREFECT_API_KEY",
        "PREFECT_SERVER_API_AUTH_STRING",
        "PREFECT_API_AUTH_STRING",
        "WANDB_API_KEY",
    )
}


def files_with_secrets(folder: Path) -> list[str]:
    """Files below a folder that hold a secret."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [str(path.relative_to(folder)) for path in files if b"s3cr3t-" in path.read_bytes()]


def test_no_secret_of_the_environment_is_written_or_said(circuits, config_file, tmp_path, monkeypatch):
    """In a run with failures, whose records hold tracebacks, and with a traceback kept on request."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CIRCUITS_DEBUG", "1")
    monkeypatch.chdir(tmp_path)
    config = config_file(**nan_in_the_second(tmp_path))
    said = circuits("run", config, "--local", "--json")
    assert said.code == 3
    run = Path(said.data["path"])
    assert len(open_run(run).failures()) == 3
    (run / "manifest.json").write_text("{}")
    spoilt = circuits("show", run)
    assert "traceback: " in spoilt.err
    assert list(tmp_path.glob("circuits-traceback-*.txt"))
    assert "s3cr3t-" not in said.out + said.err + spoilt.err
    assert files_with_secrets(tmp_path) == []


# The command line, but what it makes for as long as it runs stays: Ray's logs are among it.
KEEPING_FOLDERS = """
import sys, tempfile
tempfile.TemporaryDirectory._rmtree = classmethod(lambda *_, **__: None)
from flows.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_secret_of_the_environment_is_in_a_log_of_ray_or_prefect(tmp_path, root):
    """A process of its own, with all that Ray and Prefect write below one folder."""
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(toy_mapping(tmp_path / "results", methods=[{"name": "eap"}])))
    unused = {
        "PREFECT_API_KEY",
        "PREFECT_API_AUTH_STRING",
        "PREFECT_SERVER_API_AUTH_STRING",
        "RAY_AUTH_TOKEN",
    }
    with tempfile.TemporaryDirectory(prefix="cs-") as short:  # Ray's sockets want a short path
        places = {"RAY_TMPDIR": short, "PREFECT_HOME": f"{short}/prefect", "PYTHONPATH": str(root)}
        secrets = {name: value for name, value in SECRETS.items() if name not in unused}
        said = subprocess.run(
            [sys.executable, "-c", KEEPING_FOLDERS, "run", str(config)],
            env={**os.environ, **places, **secrets},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert said.returncode == 0, said.stderr
        assert len(list(Path(short).rglob("*.log"))) > 3
        assert files_with_secrets(Path(short)) == []
    assert files_with_secrets(tmp_path) == []
    assert "s3cr3t-" not in said.stdout + said.stderr
